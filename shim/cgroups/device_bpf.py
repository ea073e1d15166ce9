"""A BPF program that judges uses of devices by a list of rules. Pure.

The kernel runs it with a context of three words, (access << 16 | type), major and minor, and takes 1 for
yes and 0 for no. The program looks at one rule after the other, the last one first, and the first that
speaks of what is wanted decides. A rule is a few comparisons, each of which may jump to the next rule:

    r2 = type, r3 = access, r4 = major, r5 = minor
    if r2 != type of the rule: next
    if r4 != major: next
    if r5 != minor: next
    if what is wanted (r3) is not in the access of the rule: next
    r0 = allow; exit
    next: ...
    r0 = 0; exit

Source: kernel, Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h,
struct bpf_cgroup_dev_ctx.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from shim.errors import InvalidArgument
from shim.model.cgroup import ALL, ANY, DeviceRule

# Of struct bpf_cgroup_dev_ctx.
TYPES: Final = {"b": 1, "c": 2}
ACCESSES: Final = {"m": 1, "r": 2, "w": 4}
_EVERY_ACCESS: Final = 7
_MAX_NUMBER: Final = 0x7FFFFFFF  # an immediate is a signed word

# Opcodes: class, source (K an immediate, X a register), operation.
LOAD_WORD: Final = 0x61
MOVE_K: Final = 0xB7
MOVE_X: Final = 0xBF
AND_K: Final = 0x57
SHIFT_RIGHT_K: Final = 0x77
JUMP_NOT_EQUAL_K: Final = 0x55
JUMP_NOT_EQUAL_X: Final = 0x5D
JUMP_EQUAL_K: Final = 0x15
EXIT: Final = 0x95

_RESULT, _SCRATCH, _TYPE, _ACCESS, _MAJOR, _MINOR = range(6)
_CONTEXT: Final = 1  # the context comes in r1, which is free once all is read
_INSTRUCTION: Final = struct.Struct("<BBhi")

# (opcode, destination register, source register, offset, immediate)
_Instruction = tuple[int, int, int, int, int]
_PROLOGUE: Final[tuple[_Instruction, ...]] = (
    (LOAD_WORD, _TYPE, _CONTEXT, 0, 0),
    (MOVE_X, _ACCESS, _TYPE, 0, 0),
    (AND_K, _TYPE, 0, 0, 0xFFFF),
    (SHIFT_RIGHT_K, _ACCESS, 0, 0, 16),
    (LOAD_WORD, _MAJOR, _CONTEXT, 4, 0),
    (LOAD_WORD, _MINOR, _CONTEXT, 8, 0),
)


def assemble(rules: Sequence[DeviceRule]) -> bytes:
    """Return the program of rules; what none speaks of is denied.

    Raises:
        InvalidArgument: a rule has a type, an access or a number that there is not.
    """
    code = list(_PROLOGUE)
    for rule in reversed(rules):
        code += _rule(rule)
        if rule.type == ALL:
            break  # nothing comes past it, and the verifier refuses what cannot be reached
    else:
        code += _answer(allow=False)
    return b"".join(map(_encode, code))


def _rule(rule: DeviceRule) -> list[_Instruction]:
    if rule.type == ALL:
        return _answer(allow=rule.allow)
    tests = [(JUMP_NOT_EQUAL_K, _TYPE, 0, _type(rule))]
    for register, number in ((_MAJOR, rule.major), (_MINOR, rule.minor)):
        if number != ANY:
            tests.append((JUMP_NOT_EQUAL_K, register, 0, _number(rule, number)))
    access = _access(rule)
    if rule.allow and access != _EVERY_ACCESS:
        tests += [(MOVE_X, _SCRATCH, _ACCESS, 0), (AND_K, _SCRATCH, 0, access)]
        tests.append((JUMP_NOT_EQUAL_X, _SCRATCH, _ACCESS, 0))
    elif not rule.allow and access != _EVERY_ACCESS:
        tests += [(MOVE_X, _SCRATCH, _ACCESS, 0), (AND_K, _SCRATCH, 0, access)]
        tests.append((JUMP_EQUAL_K, _SCRATCH, 0, 0))
    answer = _answer(allow=rule.allow)
    last = len(tests) + len(answer) - 1
    return [*_with_offsets(tests, last), *answer]


def _with_offsets(tests: Iterable[tuple[int, int, int, int]], last: int) -> Iterable[_Instruction]:
    """Have every jump lead behind the instruction that is number ``last`` of its rule."""
    for at, (opcode, destination, source, immediate) in enumerate(tests):
        jumps = opcode in (JUMP_NOT_EQUAL_K, JUMP_NOT_EQUAL_X, JUMP_EQUAL_K)
        yield opcode, destination, source, last - at if jumps else 0, immediate


def _answer(*, allow: bool) -> list[_Instruction]:
    return [(MOVE_K, _RESULT, 0, 0, int(allow)), (EXIT, 0, 0, 0, 0)]


def _encode(instruction: _Instruction) -> bytes:
    opcode, destination, source, offset, immediate = instruction
    return _INSTRUCTION.pack(opcode, source << 4 | destination, offset, immediate)


def _type(rule: DeviceRule) -> int:
    try:
        return TYPES[rule.type]
    except KeyError:
        raise InvalidArgument(f"a device rule has the type {rule.type!r}: it is a, b or c") from None


def _access(rule: DeviceRule) -> int:
    if not rule.access or set(rule.access) - set(ACCESSES):
        raise InvalidArgument(f"a device rule has the access {rule.access!r}: it is some of r, w, m")
    return sum(ACCESSES[each] for each in set(rule.access))


def _number(rule: DeviceRule, number: int) -> int:
    if not 0 <= number <= _MAX_NUMBER:
        raise InvalidArgument(f"a device rule has the number {rule.major}:{rule.minor}")
    return number
