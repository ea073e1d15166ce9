"""Seccomp: loading a program, and building one through libseccomp."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shim.errors import KernelError, Unavailable
from shim.kernel import libc

_SET_MODE_FILTER: Final = 1
INSTRUCTION_BYTES: Final = 8

ACT_KILL_PROCESS: Final = 0x80000000
ACT_KILL_THREAD: Final = 0x00000000
ACT_TRAP: Final = 0x00030000
ACT_ERRNO: Final = 0x00050000
ACT_TRACE: Final = 0x7FF00000
ACT_LOG: Final = 0x7FFC0000
ACT_ALLOW: Final = 0x7FFF0000
ACTION_MASK: Final = 0xFFFF0000

# Flags of seccomp(2): every action but ALLOW is logged; the speculation of stores is not held back.
FLAG_LOG: Final = 1 << 1
FLAG_SPEC_ALLOW: Final = 1 << 2

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS of Linux

# Name of an operator in a profile to libseccomp's enum scmp_compare.
OPERATORS: Final[dict[str, int]] = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_NO_SUCH_SYSCALL: Final = -1
_ATTRIBUTE_NO_NEW_PRIVS: Final = 3
_ATTRIBUTE_OPTIMIZE: Final = 8
_BINARY_TREE: Final = 2
_EEXIST: Final = 17


class _Fprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition on one argument of a system call; ``second`` is the value of a masked comparison."""

    argument: int
    operator: int
    first: int
    second: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens on one system call, if all comparisons hold."""

    name: str
    action: int
    comparisons: tuple[Comparison, ...] = ()


def load(program: bytes, flags: int = 0) -> None:
    """Put this thread, and what it executes, under a BPF program. Runs in: init child, last before execve."""
    fprog = _Fprog(len(program) // INSTRUCTION_BYTES, program)
    libc.check(libc.syscall(libc.SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(fprog)), "seccomp")


def compile_rules(default_action: int, rules: Iterable[Rule], architectures: Iterable[str] = ()) -> bytes:
    """Return the BPF program of a filter. Calls that this architecture lacks are left out.

    Args:
        default_action: ACT_* for every call without a rule.
        rules: in any order; a rule with the default action says nothing and is left out.
        architectures: libseccomp's names (``x86``, ``x32``) besides the native one.

    Raises:
        Unavailable: libseccomp is not installed. KernelError: libseccomp refused something.
    """
    lib = _library()
    context = lib.seccomp_init(ctypes.c_uint32(default_action))
    if not context:
        raise KernelError("seccomp_init", 22)
    try:
        for architecture in architectures:
            token = lib.seccomp_arch_resolve_name(architecture.encode())
            _check(lib.seccomp_arch_add(ctypes.c_void_p(context), ctypes.c_uint32(token)), architecture)
        # libseccomp would set no_new_privs on loading; it is the container's own choice.
        lib.seccomp_attr_set(ctypes.c_void_p(context), _ATTRIBUTE_NO_NEW_PRIVS, ctypes.c_uint32(0))
        # On loading, the kernel runs the program once for each system call: a chain of all rules would cost
        # every process a millisecond. libseccomp before 2.5 has no trees, which is no error.
        lib.seccomp_attr_set(ctypes.c_void_p(context), _ATTRIBUTE_OPTIMIZE, ctypes.c_uint32(_BINARY_TREE))
        for rule in rules:
            if rule.action != default_action:
                _add(lib, context, rule)
        return _export(lib, context)
    finally:
        lib.seccomp_release(ctypes.c_void_p(context))


def numbers(names: Iterable[str], architecture: str) -> dict[str, int]:
    """Return the numbers of system calls by name, negative where only other architectures have the call.

    What libseccomp does not know at all is left out.

    Args:
        names: as the kernel's tables have them.
        architecture: libseccomp's name of it.

    Raises:
        Unavailable: libseccomp is not installed.
    """
    lib = _library()
    token = ctypes.c_uint32(lib.seccomp_arch_resolve_name(architecture.encode()))
    found = {name: lib.seccomp_syscall_resolve_name_arch(token, name.encode()) for name in names}
    return {name: number for name, number in found.items() if number != _NO_SUCH_SYSCALL}


def name_of(architecture: int, number: int) -> str:
    """Return the name of a system call, or its number as text where libseccomp knows none.

    Args:
        architecture: AUDIT_ARCH_* of the kernel, which libseccomp uses as well.
        number: of the call.

    Raises:
        Unavailable: libseccomp is not installed.
    """
    lib = _library()
    resolve = lib.seccomp_syscall_resolve_num_arch
    resolve.restype = ctypes.c_void_p
    address = resolve(ctypes.c_uint32(architecture), ctypes.c_int(number))
    if not address:
        return str(number)
    try:
        return ctypes.string_at(address).decode()
    finally:
        libc.libc.free(ctypes.c_void_p(address))


def _add(lib: ctypes.CDLL, context: int, rule: Rule) -> None:
    number = lib.seccomp_syscall_resolve_name(rule.name.encode())
    if number == _NO_SUCH_SYSCALL:
        return
    made = (_Comparison * len(rule.comparisons))(
        *(_Comparison(c.argument, c.operator, c.first, c.second) for c in rule.comparisons)
    )
    result = lib.seccomp_rule_add_array(
        ctypes.c_void_p(context), ctypes.c_uint32(rule.action), number, ctypes.c_uint(len(made)), made
    )
    _check(result, rule.name)


def _export(lib: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(lib.seccomp_export_bpf(ctypes.c_void_p(context), fd), "export")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _check(result: int, what: str) -> None:
    if result < 0 and result != -_EEXIST:
        raise KernelError("libseccomp", -result, what)


def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise Unavailable(f"cannot load libseccomp.so.2: {error}: install Debian's libseccomp2") from None
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    return lib
