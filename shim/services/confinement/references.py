"""How a request names a profile of seccomp or AppArmor: by type, or by the text that came before. Pure."""

from __future__ import annotations

from typing import Final

from shim.errors import InvalidArgument
from shim.model.security import ProfileType, SecurityProfile

PREFIX: Final = "localhost/"
DEFAULTS: Final = ("runtime/default", "docker/default")
UNCONFINED: Final = "unconfined"


def by_path(field: str, path: str) -> SecurityProfile | None:
    """Return the profile of the older form; None for an empty one.

    Raises:
        InvalidArgument: the text has no form that is known; names ``field``.
    """
    if not path:
        return None
    if path in DEFAULTS:
        return SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    if path == UNCONFINED:
        return SecurityProfile(ProfileType.UNCONFINED)
    if not path.startswith(PREFIX):
        raise InvalidArgument(f"{field} {path!r} is not runtime/default, unconfined or localhost/...")
    return check(field, SecurityProfile(ProfileType.LOCALHOST, path))


def check(field: str, profile: SecurityProfile) -> SecurityProfile:
    """Return a profile whose reference has no prefix.

    Raises:
        InvalidArgument: a reference is missing, or is where there can be none; names ``field``.
    """
    reference = profile.localhost_ref.removeprefix(PREFIX)
    if profile.profile_type is ProfileType.LOCALHOST:
        if not reference:
            raise InvalidArgument(f"{field} is of type Localhost without a localhost_ref")
    elif reference:
        raise InvalidArgument(f"{field} has localhost_ref {reference!r}, but is not of type Localhost")
    return SecurityProfile(profile.profile_type, reference)
