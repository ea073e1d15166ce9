"""Signals as the CRI numbers them, as images name them, and as the kernel counts them."""

from __future__ import annotations

import signal
from typing import Final

from shim.errors import InvalidArgument

# CRI enum Signal: its numbers are the places in this list; 0 means the runtime's default.
_NAMES: Final = (
    *("", "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL"),
    *("PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN"),
    *("TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN"),
    *(f"RTMIN+{n}" for n in range(1, 16)),
    *(f"RTMAX-{n}" for n in range(14, 0, -1)),
    "RTMAX",
)
_STKFLT: Final = 16  # not in Python's signal module; the number is the same on x86 and arm
_HIGHEST: Final = 64


def _number(name: str) -> int:
    base, _, offset = name.replace("-", "+-").partition("+")
    if base == "STKFLT":
        return _STKFLT
    number = int(getattr(signal, "SIG" + base))
    return number + int(offset) if offset else number


_NUMBERS: Final = tuple(_number(name) if name else 0 for name in _NAMES)
_BY_NAME: Final = dict(zip(_NAMES[1:], _NUMBERS[1:], strict=True))
_CRI_BY_NUMBER: Final = {number: cri for cri, number in reversed(list(enumerate(_NUMBERS))) if cri}


def from_cri(value: int) -> int:
    """Return the kernel's number for a value of the CRI's enum Signal; 0 for 0.

    Raises:
        InvalidArgument: there is no such value.
    """
    if not 0 <= value < len(_NUMBERS):
        raise InvalidArgument(f"stop_signal {value} is not a signal of the CRI")
    return _NUMBERS[value]


def to_cri(number: int) -> int:
    """Return the CRI's value for a signal number; 0 for one it does not know."""
    return _CRI_BY_NUMBER.get(number, 0)


def from_image(text: str) -> int:
    """Return the number of an image's StopSignal: ``SIGQUIT``, ``quit``, ``3``, ``SIGRTMIN+3``; 0 if empty.

    Raises:
        InvalidArgument: it is no signal.
    """
    name = text.strip().upper()
    if not name:
        return 0
    if name.isdecimal() and 1 <= int(name) <= _HIGHEST:
        return int(name)
    try:
        return _BY_NAME[name.removeprefix("SIG")]
    except KeyError:
        raise InvalidArgument(f"the image's stop signal {text!r} is not a signal") from None


def stop_signal(asked: int, of_image: str) -> int:
    """Return the number StopContainer sends first: the request's, else the image's, else SIGTERM."""
    return from_cri(asked) or from_image(of_image) or int(signal.SIGTERM)
