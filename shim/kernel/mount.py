"""Mounts: mount(2) and, by descriptor, open_tree(2), move_mount(2), fsopen(2), mount_setattr(2)."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Final

from shim.errors import KernelError
from shim.kernel import libc
from shim.kernel.libc import check, encode

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20

MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000
MOUNT_ATTR_IDMAP: Final = 0x100000

OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    """Mount as mount(2) does; also for bind mounts, remounts and changes of propagation."""
    result = libc.libc.mount(
        encode(source), encode(target), encode(fstype), ctypes.c_ulong(flags), encode(data)
    )
    check(result, "mount", target)


def umount(path: str, flags: int = 0) -> None:
    """Unmount as umount2(2) does; MNT_DETACH lets busy ones go later."""
    check(libc.libc.umount2(encode(path), flags), "umount2", path)


def pivot_root(new_root: str, put_old: str) -> None:
    """Exchange the root of this mount namespace (pivot_root(2)); both ``.`` stacks the old one on the new."""
    check(libc.syscall(libc.SYS_PIVOT_ROOT, encode(new_root), encode(put_old)), "pivot_root", new_root)


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """Return a descriptor of a mount; with OPEN_TREE_CLONE of a detached copy (open_tree(2))."""
    result = libc.syscall(libc.SYS_OPEN_TREE, dir_fd, encode(path), flags | OPEN_TREE_CLOEXEC)
    return check(result, "open_tree", path or f"fd {dir_fd}")


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int, shown: str = "") -> None:
    """Attach or move a mount (move_mount(2)). ``shown`` is the path that an error names."""
    result = libc.syscall(libc.SYS_MOVE_MOUNT, from_fd, encode(from_path), to_fd, encode(to_path), flags)
    check(result, "move_mount", shown or to_path)


def attach(tree_fd: int, target_fd: int, shown: str) -> None:
    """Attach a detached mount onto what an O_PATH descriptor names: no path is looked up again."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    move_mount(tree_fd, "", target_fd, "", flags, shown)


def fsopen(fstype: str) -> int:
    """Return a context in which a file system is configured (fsopen(2))."""
    return check(libc.syscall(libc.SYS_FSOPEN, encode(fstype), _FSOPEN_CLOEXEC), "fsopen", fstype)


def fsconfig_set_string(fd: int, key: str, value: str) -> None:
    """Set one option with a value (fsconfig(2))."""
    result = libc.syscall(libc.SYS_FSCONFIG, fd, _FSCONFIG_SET_STRING, encode(key), encode(value), 0)
    check(result, "fsconfig", f"{key}={value}")


def fsconfig_set_flag(fd: int, key: str) -> None:
    """Set one option without a value (fsconfig(2))."""
    check(libc.syscall(libc.SYS_FSCONFIG, fd, _FSCONFIG_SET_FLAG, encode(key), None, 0), "fsconfig", key)


def fsconfig_create(fd: int, shown: str = "") -> None:
    """Make the file system of a context. The kernel's own explanation, if any, is put into the error."""
    result = libc.syscall(libc.SYS_FSCONFIG, fd, _FSCONFIG_CMD_CREATE, None, None, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise KernelError("fsconfig", number, f"{shown} ({_explanation(fd)})")


def fsmount(fd: int, attributes: int = 0) -> int:
    """Return a detached mount of a configured file system (fsmount(2))."""
    return check(libc.syscall(libc.SYS_FSMOUNT, fd, _FSMOUNT_CLOEXEC, attributes), "fsmount")


def new_mount(fstype: str, source: str, options: tuple[str, ...] = (), attributes: int = 0) -> int:
    """Return a detached mount of a new file system.

    Args:
        fstype: such as ``proc`` or ``tmpfs``.
        source: the name shown in mountinfo.
        options: ``key=value`` or ``key``, for the file system.
        attributes: MOUNT_ATTR_* bits of the mount.
    """
    context = fsopen(fstype)
    try:
        fsconfig_set_string(context, "source", source)
        for option in options:
            key, equals, value = option.partition("=")
            if equals:
                fsconfig_set_string(context, key, value)
            else:
                fsconfig_set_flag(context, key)
        fsconfig_create(context, fstype)
        return fsmount(context, attributes)
    finally:
        os.close(context)


def context_options(label: str) -> tuple[str, ...]:
    """Return the options that give all of a new file system a label of SELinux; none for an empty one."""
    return (f"context={label}",) if label else ()


@functools.cache
def proc_takes_namespace() -> bool:
    """Return whether /proc of a PID namespace can be mounted from outside of it (Linux 6.17)."""
    try:
        os.close(new_mount("proc", "proc", ("pidns=/proc/self/ns/pid",)))
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
        return False
    return True


def mount_setattr(
    dir_fd: int,
    path: str,
    flags: int,
    *,
    set_: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change attributes, propagation or id map of a mount, with AT_RECURSIVE of a tree (mount_setattr(2))."""
    attr = _MountAttr(set_, 0, propagation, userns_fd)
    result = libc.syscall(
        libc.SYS_MOUNT_SETATTR, dir_fd, encode(path), flags, ctypes.byref(attr), ctypes.sizeof(attr)
    )
    check(result, "mount_setattr", path or f"fd {dir_fd}")


def _explanation(fd: int) -> str:
    """Return what the kernel wrote into the context's message queue (``e overlay: …``)."""
    lines = []
    while True:
        try:
            lines.append(os.read(fd, 4096).decode(errors="replace").strip())
        except OSError as error:
            if error.errno != errno.ENODATA:
                lines.append(os.strerror(error.errno or 0))
            return "; ".join(lines) or "the kernel gives no reason"
