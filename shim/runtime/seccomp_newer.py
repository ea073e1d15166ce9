"""System calls that are newer than the profile, or than the libseccomp that compiles it. Pure.

A filter that answers EPERM for a call it never heard of breaks programs: the C library tries a new call first
and falls back to an old one only if the new one is not there, ENOSYS. So whatever is beyond the highest call
that a profile names is not there, as runc has it. And what a profile does name, but this libseccomp does not
know, is decided here by number. Both come as instructions before those of libseccomp:

    architecture?  -> one of ours: number?  -> beyond the highest known: its own action, or ENOSYS
                   -> another              -> on to libseccomp's program
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shim.kernel import seccomp
from shim.kernel.seccomp import Rule

# From 424 on a call has one number on every architecture (include/uapi/asm-generic/unistd.h).
NUMBERS: Final = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}

# libseccomp's names of architectures to AUDIT_ARCH_* of linux/audit.h. x32 shares that of x86_64, and its
# numbers have a bit more.
AUDIT: Final = {
    "x86": 0x40000003,
    "x86_64": 0xC000003E,
    "arm": 0x40000028,
    "aarch64": 0xC00000B7,
    "ppc64le": 0xC0000015,
    "s390": 0x00000016,
    "s390x": 0x80000016,
    "riscv64": 0xC00000F3,
    "loongarch64": 0xC0000102,
}
_X32_BIT: Final = 0x40000000
_OPEN: Final = (seccomp.ACT_ALLOW, seccomp.ACT_LOG)

_NUMBER_AT: Final = 0  # offsets in struct seccomp_data
_ARCHITECTURE_AT: Final = 4
_LOAD: Final = 0x20  # linux/filter.h: BPF_LD | BPF_W | BPF_ABS
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_GREATER: Final = 0x25
_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_INSTRUCTION: Final = struct.Struct("=HBBI")
# Code, how many instructions are passed over if it is so, and if not, and a value.
_Instruction = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Beyond:
    """What happens on one architecture beyond the highest call that the profile names.

    Attributes:
        last: number of that call, as far as libseccomp knows them.
        actions: of calls that only this module knows, by number.
        otherwise: action for all others; None leaves them to libseccomp's program.
    """

    last: int
    actions: Mapping[int, int]
    otherwise: int | None


def plan(default_action: int, rules: Iterable[Rule], known: Mapping[str, int]) -> Beyond | None:
    """Return what happens beyond the highest call; None where the profile names none.

    Args:
        default_action: of the profile.
        rules: of the profile; of those with conditions only the number counts here.
        known: libseccomp's numbers on this architecture, negative where it lacks the call.
    """
    rules = list(rules)
    last = max((known[rule.name] for rule in rules if rule.name in known), default=-1)
    if last < 0:
        return None
    actions = {
        NUMBERS[rule.name]: rule.action
        for rule in rules
        if rule.name in NUMBERS and rule.name not in known and not rule.comparisons
    }
    permissive = default_action in _OPEN or default_action & seccomp.ACTION_MASK == seccomp.ACT_TRACE
    return Beyond(last, actions, None if permissive else seccomp.ACT_ERRNO | errno.ENOSYS)


def encode(plans: Mapping[str, Beyond]) -> bytes:
    """Return the instructions, to be put before libseccomp's program.

    Args:
        plans: by libseccomp's name of the architecture; one that is not known here is left to libseccomp.
    """
    code: list[_Instruction | None] = []
    for name, beyond in plans.items():
        if name in AUDIT:
            section = _section(name, beyond)
            code += [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_IF_EQUAL, 1, 0, AUDIT[name])]
            code += [(_JUMP, 0, 0, len(section)), *section]
    whole = ((_JUMP, 0, 0, len(code) - at - 1) if each is None else each for at, each in enumerate(code))
    return b"".join(_INSTRUCTION.pack(*each) for each in whole)


def _section(name: str, beyond: Beyond) -> list[_Instruction | None]:
    """Return what is done on one architecture; None stands for the jump to libseccomp's program."""
    code: list[_Instruction | None] = [(_LOAD, 0, 0, _NUMBER_AT)]
    if name == "x86_64":
        code += [(_IF_AT_LEAST, 0, 1, _X32_BIT), None]
    code += [(_IF_GREATER, 1, 0, beyond.last), None]
    for number, action in beyond.actions.items():
        code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]
    code.append(None if beyond.otherwise is None else (_RETURN, 0, 0, beyond.otherwise))
    return code
