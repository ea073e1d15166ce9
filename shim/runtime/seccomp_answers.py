"""What a seccomp program answers to a call: its instructions, run as the kernel does. Pure.

Source: seccomp(2); kernel Documentation/networking/filter.rst, "Internal format".
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from typing import Final

from shim.kernel import process, seccomp
from shim.runtime.seccomp_newer import AUDIT

_INSTRUCTION: Final = struct.Struct("=HBBI")
_DATA: Final = struct.Struct("=iIQ6Q")  # struct seccomp_data: number, architecture, address, arguments
_LOAD, _AND, _JUMP, _RETURN = 0x20, 0x54, 0x05, 0x06
_TESTS: Final[dict[int, Callable[[int, int], bool]]] = {
    0x15: lambda loaded, value: loaded == value,
    0x25: lambda loaded, value: loaded > value,
    0x35: lambda loaded, value: loaded >= value,
    0x45: lambda loaded, value: bool(loaded & value),
}
_GOES_ON: Final = (seccomp.ACT_ALLOW, seccomp.ACT_LOG)

# What a process does between the filter and its program where ``plan_unseen`` loads it early.
_AFTERWARDS: Final = ("clone", "sendmsg", "close", "prctl", "setsid", "ioctl", "dup2", "dup3", "exit_group")
_FLAGS: Final = process.CLONE_PARENT | process.CLONE_PIDFD


def answer(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return the action of a program for a call.

    An instruction that is not known here, which libseccomp never makes, answers as a refusal.

    Args:
        program: instructions of classic BPF; empty allows everything.
        architecture: AUDIT_ARCH_* of linux/audit.h.
        number: of the system call.
        arguments: the first of them; the others are 0.
    """
    if not program:
        return seccomp.ACT_ALLOW
    data = _DATA.pack(number, architecture, 0, *arguments, *(0,) * (6 - len(arguments)))
    instructions = list(_INSTRUCTION.iter_unpack(program))
    at, loaded = 0, 0
    while at < len(instructions):
        operation, if_so, if_not, value = instructions[at]
        at += 1
        if operation == _RETURN:
            return int(value)
        if operation == _LOAD:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif operation == _AND:
            loaded &= value
        elif operation == _JUMP:
            at += value
        elif operation in _TESTS:
            at += if_so if _TESTS[operation](loaded, value) else if_not
        else:
            break
    return seccomp.ACT_KILL_PROCESS


@functools.lru_cache(maxsize=64)
def allows_an_early_filter(program: bytes) -> bool:
    """Return whether a program may be loaded before the fork of the process that it is for."""
    machine = os.uname().machine
    known = seccomp.numbers(_AFTERWARDS, machine)
    calls = ((name, number) for name, number in known.items() if number >= 0)
    return all(
        answer(program, AUDIT[machine], number, *((_FLAGS,) if name == "clone" else ())) in _GOES_ON
        for name, number in calls
    )
