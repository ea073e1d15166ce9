"""Seccomp: which profile is asked for, its text as it was when the container was made, and its program.

A container keeps the profile that it was made with, whatever becomes of the administrator's file: its text
lies in a directory of ours, named by its digest, and the container's record has the digest.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import posixpath
import stat
from collections.abc import Set as AbstractSet
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.kernel import files, seccomp
from shim.model.security import Confinement, ContainerSecurity, ProfileType, SecurityProfile
from shim.runtime import seccomp_filter
from shim.runtime.seccomp_filter import Program
from shim.services.confinement import references

_MAX_BYTES: Final = 1 << 20


def asked(security: ContainerSecurity, default: ProfileType) -> SecurityProfile:
    """Return the profile asked for, by type or by the older path; a reference has no ``localhost/``. Pure.

    Args:
        security: the request.
        default: what counts where it says nothing.

    Raises:
        InvalidArgument: it names a profile in no form that is known.
    """
    if security.privileged:
        return SecurityProfile(ProfileType.UNCONFINED)
    if security.seccomp is None:
        profile = references.by_path("seccomp_profile_path", security.seccomp_profile_path)
    else:
        profile = references.check("seccomp", security.seccomp)
    if profile is None:
        return SecurityProfile(default)
    path = profile.localhost_ref
    if profile.profile_type is ProfileType.LOCALHOST and (
        not posixpath.isabs(path) or ".." in path.split("/") or "\0" in path
    ):
        raise InvalidArgument(f"the seccomp profile {path!r} is not an absolute path without '..'")
    return profile


def keep(directory: str, path: str, mask: int) -> str:
    """Keep the text of a profile of the node, if it is one; return its digest. Blocking.

    Args:
        directory: where texts are kept.
        path: of the profile.
        mask: capabilities of who is going to have it.

    Raises:
        FailedPrecondition: there is no such file, or it cannot be read.
        InvalidArgument, Unimplemented: it is no profile, or needs what is not supported.
    """
    text = _read(path)
    seccomp_filter.from_json(text, mask)
    digest = hashlib.sha256(text).hexdigest()
    kept = os.path.join(directory, digest)
    if not os.path.exists(kept):
        os.makedirs(directory, 0o700, exist_ok=True)
        files.write_atomic(kept, text)
    return digest


def forget(directory: str, used: AbstractSet[str]) -> None:
    """Remove the profiles that no container has. Blocking; only while none is being made."""
    with contextlib.suppress(FileNotFoundError):
        for name in set(os.listdir(directory)) - used:
            os.unlink(os.path.join(directory, name))


def program(directory: str, confinement: Confinement, mask: int, *, log: bool = False) -> Program:
    """Return the program of a container; built once for a profile and a set of capabilities. Blocking.

    Args:
        directory: where ``keep`` keeps.
        confinement: of the container.
        mask: its capabilities.
        log: tell the kernel to log each call that is not allowed.

    Raises:
        InvalidArgument, Unimplemented: the profile is none, or needs what is not supported.
        FailedPrecondition: its text is gone.
    """
    if confinement.seccomp is ProfileType.UNCONFINED:
        return Program()
    if confinement.seccomp is ProfileType.RUNTIME_DEFAULT:
        made = seccomp_filter.runtime_default(mask)
    else:
        made = seccomp_filter.from_json(_kept(directory, confinement.seccomp_digest), mask)
    return Program(made.code, made.flags | (seccomp.FLAG_LOG if log else 0))


@functools.lru_cache(maxsize=64)
def _kept(directory: str, digest: str) -> bytes:
    return _read(os.path.join(directory, digest))


def _read(path: str) -> bytes:
    what = f"the seccomp profile {path!r}"
    try:
        # Whatever it is, opening it must not wait: a FIFO would.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArgument(f"{what} is not a regular file")
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise FailedPrecondition(
            f"cannot read {what}: {(error.strerror or '').lower()}: put it there"
        ) from None
    if len(text) > _MAX_BYTES:
        raise InvalidArgument(f"{what} is longer than {_MAX_BYTES} bytes")
    return text
