"""Names, times and extended attributes as entries of an archive give them, made fit for the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

from shim.errors import InvalidArgument, KernelError
from shim.images.unpack import tar
from shim.kernel import files

# An image must not steer overlayfs, nor how this node labels files.
_NEVER: Final = (b"trusted.overlay.", b"user.overlay.", files.SELINUX.encode())
_MAY_FAIL: Final = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)
MUST_HAVE: Final = b"security.capability"
_MIN_TIME_NS: Final = -(1 << 31) * 1_000_000_000
_MAX_TIME_NS: Final = ((1 << 34) - 1) * 1_000_000_000  # what ext4 can hold; others clamp by themselves
_PATH_MAX: Final = 4096


def clean(path: bytes) -> bytes:
    """Return a path relative to the layer's root without ``.``, empty parts or slashes around it.

    A leading slash is dropped, as tar does: some builders write absolute names. ``b""`` is the root.

    Raises:
        InvalidArgument: ``..`` is in it, or it is too long for the kernel.
    """
    if path.startswith(b"./"):
        path = path[2:]
    path = path.strip(b"/")
    if len(path) >= _PATH_MAX:
        raise InvalidArgument(f"malformed layer: the path {show(path[:60])}… has {len(path)} bytes")
    if b"\0" in path:
        raise InvalidArgument(f"malformed layer: the path {show(path)} has a NUL in it")
    if b"//" not in path and not path.startswith(b".") and b"/." not in path:
        return path
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidArgument(f"malformed layer: the path {show(path)} would leave the layer")
    return b"/".join(parts)


def place(raw: bytes, aliases: Mapping[bytes, bytes]) -> bytes:
    """Return the clean path that a path of the archive means in the layers' merged view.

    Args:
        raw: as the archive has it.
        aliases: directory that a lower layer has as a link -> where that leads; both clean.
    """
    path = clean(raw)
    if aliases:
        end = path.rfind(b"/")
        while end > 0:
            leads_to = aliases.get(path[:end])
            if leads_to is not None:
                return (leads_to + path[end:]).lstrip(b"/")
            end = path.rfind(b"/", 0, end)
    return path


def is_kept(name: bytes) -> bool:
    """Tell whether an extended attribute of an archive goes to the disk: none of overlayfs, SELinux does."""
    return not name.startswith(_NEVER) and b"\0" not in name


def show(path: bytes) -> str:
    """Return a path of an archive as it can stand in a message."""
    return repr(path.decode(errors="backslashreplace"))


def times(entry: tar.Entry) -> tuple[int, int]:
    """Return (access, modification) time in nanoseconds."""
    time_ns = min(max(entry.mtime_ns, _MIN_TIME_NS), _MAX_TIME_NS)
    return time_ns, time_ns


def set_xattrs(target: int | bytes, entry: tar.Entry) -> None:
    """Set the attributes of an entry on a descriptor, or on a path without following a link at its end.

    File capabilities must work; labels of security modules that this host has not are left out.
    """
    for name, value in entry.xattrs.items():
        if not is_kept(name):
            continue
        try:
            files.set_xattr(target, name, value)
        except KernelError as error:
            if name == MUST_HAVE or error.errno not in _MAY_FAIL:
                raise KernelError("setxattr", error.errno or errno.EIO, os.fsdecode(entry.path)) from None
