"""AppArmor: which profile a container gets, and the one that is loaded for those that ask for none.

A profile is loaded into the kernel by name; by whom does not matter here. Ours is loaded when a daemon
starts, if the node has what that takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.kernel import files
from shim.model.security import ContainerSecurity, ProfileType, SecurityProfile
from shim.services.confinement import apparmor_default, references

log = logging.getLogger(__name__)

DEFAULT: Final = apparmor_default.NAME
ENABLED: Final = "sys/module/apparmor/parameters/enabled"
LOADED: Final = "sys/kernel/security/apparmor/profiles"
PARSERS: Final = ("usr/sbin/apparmor_parser", "sbin/apparmor_parser")
_LOAD_TIMEOUT_S: Final = 30
_MAX_NAME: Final = 4096


@dataclass(frozen=True, slots=True)
class Host:
    """What this node has of AppArmor.

    Attributes:
        enabled: whether the kernel has it, switched on.
        readable: whether it can be told what is loaded.
        loaded: names of profiles.
    """

    enabled: bool = False
    loaded: AbstractSet[str] = frozenset()
    readable: bool = True


def look(root: str = "/") -> Host:
    """Return what a node has. Blocking, for a short time."""
    if _read(os.path.join(root, ENABLED))[:1] != "Y":
        return Host()
    path = os.path.join(root, LOADED)
    if not os.access(path, os.R_OK):
        return Host(enabled=True, readable=False)
    return Host(True, frozenset(line.rpartition(" (")[0] for line in _read(path).splitlines()))


def asked(security: ContainerSecurity) -> SecurityProfile | None:
    """Return the profile asked for, by type or by the older text; None where nothing is said. Pure.

    Raises:
        InvalidArgument: it names a profile in no form that is known.
    """
    if security.apparmor is None:
        profile = references.by_path("apparmor_profile", security.apparmor_profile)
    else:
        profile = references.check("apparmor", security.apparmor)
    if profile is not None and (
        len(profile.localhost_ref) > _MAX_NAME or not profile.localhost_ref.isprintable()
    ):
        raise InvalidArgument(f"{profile.localhost_ref[:64]!r} is no name of an AppArmor profile")
    return profile


def plan(security: ContainerSecurity, host: Host) -> str:
    """Return the name of the profile that a container gets; empty for none. Pure.

    A node without AppArmor cannot do what a profile by name is for; ours is left out there.

    Raises:
        InvalidArgument: it names a profile in no form that is known.
        FailedPrecondition: the profile is not loaded.
    """
    profile = asked(security)
    kind = ProfileType.RUNTIME_DEFAULT if profile is None else profile.profile_type
    if profile is not None and kind is ProfileType.LOCALHOST:
        name = profile.localhost_ref
        if not host.enabled:
            raise FailedPrecondition(f"no AppArmor on this node, so profile {name!r} cannot be used")
        if name not in host.loaded:
            raise FailedPrecondition(f"AppArmor profile {name!r} is not loaded: load it on this node")
        return name
    if kind is ProfileType.UNCONFINED or security.privileged or not host.enabled:
        return ""
    if DEFAULT in host.loaded:
        return DEFAULT
    if profile is None:  # nobody asked; the daemon has said at its start that it is missing
        return ""
    raise FailedPrecondition(
        f"AppArmor profile {DEFAULT!r} is not loaded: install apparmor_parser and start the daemon again"
    )


def parser(root: str = "/") -> str | None:
    """Return the path of the program that loads profiles; None if it is not installed."""
    paths = (os.path.join(root, path) for path in PARSERS)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def load_default(state: str, root: str = "/") -> None:
    """Load our profile unless it is there; what cannot be is a warning. Blocking, for up to a second.

    Args:
        state: a directory that a reboot voids, as it does loaded profiles.
        root: of the node.
    """
    host = look(root)
    if not host.enabled:
        return
    shared = os.path.join(root, "etc/apparmor.d")
    has = {name for name in apparmor_default.INCLUDES if os.path.exists(os.path.join(shared, name))}
    text = apparmor_default.text(has, _own_label())
    note = os.path.join(state, "apparmor")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if DEFAULT in host.loaded and _read(note) == digest:
        return
    program = parser(root)
    if program is None:
        if DEFAULT not in host.loaded:
            log.warning("AppArmor is on, but there is no apparmor_parser: containers run without a profile")
        return
    try:
        # From standard input, into the kernel, in place of an older one, and no cache: that would be a file.
        subprocess.run(
            [program, "--replace", "--skip-cache"],
            input=text.encode(),
            capture_output=True,
            check=True,
            timeout=_LOAD_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        log.warning("cannot load AppArmor profile %s: %s", DEFAULT, error.stderr.decode(errors="replace"))
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("cannot load AppArmor profile %s: %s", DEFAULT, error)
    else:
        files.write_atomic(note, digest.encode())
        log.info("AppArmor profile %s is loaded", DEFAULT)


def _own_label() -> str:
    """Return the profile that confines the daemon itself, ``unconfined`` for none."""
    label = _read("/proc/self/attr/apparmor/current") or _read("/proc/self/attr/current")
    return label.strip("\0\n").partition(" ")[0] or "unconfined"


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""
