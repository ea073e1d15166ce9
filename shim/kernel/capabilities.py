"""Capabilities (capabilities(7)) as bit masks: bit N is capability N."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from typing import Final

from shim.errors import InvalidArgument
from shim.kernel import libc

# fmt: off
NAMES: Final = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK",
    "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN",
    "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE",
    "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND",
    "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)
# fmt: on

_STATUS_BYTES: Final = 16384
_BOUNDING: Final = b"CapBnd:"
_VERSION_3: Final = 0x20080522
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4


def parse(name: str) -> int:
    """Return the number of a capability named with or without ``CAP_``, in any case.

    Raises:
        InvalidArgument: there is no such capability.
    """
    try:
        return NAMES.index(name.upper().removeprefix("CAP_"))
    except ValueError:
        raise InvalidArgument(f"unknown capability {name!r}") from None


@functools.cache
def last_cap() -> int:
    """Return the highest capability that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def bounding_set() -> int:
    """Return the capabilities that this process and its children can ever have."""
    # Read as bytes: this runs in init children, where every page that is touched is copied.
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, _STATUS_BYTES)
    finally:
        os.close(fd)
    at = text.index(_BOUNDING) + len(_BOUNDING)
    return int(text[at : text.index(b"\n", at)], 16)


def drop_bounding(keep: int) -> None:
    """Remove everything that is not in ``keep`` from the bounding set; needs SETPCAP, so it comes first."""
    for number in range(last_cap() + 1):
        if not keep >> number & 1:
            _prctl(_PR_CAPBSET_DROP, number, 0)


def set_process(permitted: int, effective: int, inheritable: int) -> None:
    """Set three of this thread's sets (capset(2))."""
    header = struct.pack("Ii", _VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    data = struct.pack(
        "6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> high,
        permitted >> high,
        inheritable >> high,
    )
    libc.check(libc.syscall(libc.SYS_CAPSET, header, data), "capset")


def set_ambient(ambient: int) -> None:
    """Set the ambient set; each must be permitted and inheritable."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0)
    for number in range(last_cap() + 1):
        if ambient >> number & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def _prctl(option: int, first: int, second: int) -> None:
    zero = ctypes.c_ulong(0)
    result = libc.libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), zero, zero)
    libc.check(result, f"prctl {option}", f"capability {first if option == _PR_CAPBSET_DROP else second}")
