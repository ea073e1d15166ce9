"""Capabilities (capabilities(7)) as bit masks: bit N is capability N."""

from __future__ import annotations

import ctypes
import functools
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

_VERSION_3: Final = 0x20080522
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_ZERO: Final = ctypes.c_ulong(0)


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
    """Return the highest capability that this kernel knows.

    The kernel is asked, not /proc: an init child asks too, and what a container has there may be anything.
    """
    number = 0
    while _in_bounding_set(number + 1) is not None:
        number += 1
    return number


def bounding_set(among: int = -1) -> int:
    """Return the capabilities that this process and its children can ever have.

    Args:
        among: those that count; the kernel is asked for each, which takes a microsecond.
    """
    numbers = (number for number in range(last_cap() + 1) if among >> number & 1)
    return sum(1 << number for number in numbers if _in_bounding_set(number))


def _in_bounding_set(number: int) -> bool | None:
    """Return whether a capability is in the bounding set; None where there is none of this number."""
    result = libc.libc.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(number), _ZERO, _ZERO, _ZERO)
    return None if result < 0 else bool(result)


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
    result = libc.libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), _ZERO, _ZERO)
    libc.check(result, f"prctl {option}", f"capability {first if option == _PR_CAPBSET_DROP else second}")
