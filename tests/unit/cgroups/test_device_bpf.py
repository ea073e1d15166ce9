"""The program is run by an interpreter of its few instructions, and must judge as the rules do."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cgroups import device_bpf as bpf
from shim.errors import InvalidArgument
from shim.model.cgroup import ALL, ANY, DeviceRule

Asked = tuple[str, str, int, int]  # type, access, major, minor

numbers = st.sampled_from((0, 1, 3, 5, 136, 4095))
accesses = st.sets(st.sampled_from("rwm"), min_size=1).map("".join)
rules = st.lists(
    st.builds(
        DeviceRule,
        st.booleans(),
        st.sampled_from(("b", "c", "c", "b", ALL)),
        st.just(ANY) | numbers,
        st.just(ANY) | numbers,
        accesses,
    ),
    max_size=8,
)
asked = st.tuples(st.sampled_from("bc"), accesses, numbers, numbers)


def judge(list_: list[DeviceRule], want: Asked) -> bool:
    """The meaning of rules, said as plainly as possible."""
    type_, access, major, minor = want
    for rule in reversed(list_):
        if rule.type == ALL:
            return rule.allow
        if rule.type != type_ or rule.major not in (ANY, major) or rule.minor not in (ANY, minor):
            continue
        if set(access) <= set(rule.access) if rule.allow else set(access) & set(rule.access):
            return rule.allow
    return False


def run(program: bytes, want: Asked) -> int:
    """What the kernel would make of a program; anything that its verifier refuses is an error."""
    type_, access, major, minor = want
    word = sum(bpf.ACCESSES[each] for each in access) << 16 | bpf.TYPES[type_]
    context = struct.pack("<III", word, major, minor)
    registers: dict[int, int] = {}
    code = list(struct.iter_unpack("<BBhi", program))
    at = 0
    while True:
        opcode, both, offset, immediate = code[at]
        to, source = both & 15, both >> 4
        at += 1
        if opcode == bpf.EXIT:
            return registers[0]
        if opcode == bpf.LOAD_WORD:
            assert source == 1
            (registers[to],) = struct.unpack_from("<I", context, offset)
        elif opcode == bpf.MOVE_K:
            registers[to] = immediate
        elif opcode == bpf.MOVE_X:
            registers[to] = registers[source]
        elif opcode == bpf.AND_K:
            registers[to] &= immediate
        elif opcode == bpf.SHIFT_RIGHT_K:
            registers[to] >>= immediate
        else:
            other = registers[source] if opcode == bpf.JUMP_NOT_EQUAL_X else immediate
            equal = registers[to] == other
            assert opcode in (bpf.JUMP_NOT_EQUAL_K, bpf.JUMP_NOT_EQUAL_X, bpf.JUMP_EQUAL_K)
            assert offset >= 0  # no loops
            at += offset if equal == (opcode == bpf.JUMP_EQUAL_K) else 0


@given(rules, asked)
def test_the_program_judges_as_the_rules_do(list_: list[DeviceRule], want: Asked) -> None:
    assert run(bpf.assemble(list_), want) == int(judge(list_, want))


@given(rules)
def test_every_instruction_can_be_reached(list_: list[DeviceRule]) -> None:
    """The verifier refuses a program in which one cannot."""
    code = list(struct.iter_unpack("<BBhi", bpf.assemble(list_)))
    jumps = (bpf.JUMP_NOT_EQUAL_K, bpf.JUMP_NOT_EQUAL_X, bpf.JUMP_EQUAL_K)
    reached, todo = set(), [0]
    while todo:
        at = todo.pop()
        if at in reached:
            continue
        reached.add(at)
        opcode, _, offset, _ = code[at]
        todo += [] if opcode == bpf.EXIT else [at + 1]
        todo += [at + 1 + offset] if opcode in jumps else []
    assert reached == set(range(len(code)))


def test_without_rules_nothing_is_allowed() -> None:
    program = bpf.assemble([])
    for type_, access in itertools.product("bc", "rwm"):
        assert run(program, (type_, access, 1, 3)) == 0


def test_a_directory_full_of_devices_fits() -> None:
    list_ = [DeviceRule(True, "b", 8, minor, "r") for minor in range(4000)]
    program = bpf.assemble(list_)
    assert run(program, ("b", "r", 8, 0)) == 1
    assert run(program, ("b", "rw", 8, 0)) == 0


@pytest.mark.parametrize(
    "rule",
    [
        DeviceRule(True, "x", 1, 3),
        DeviceRule(True, "c", 1, 3, ""),
        DeviceRule(True, "c", 1, 3, "rx"),
        DeviceRule(True, "c", -2, 3),
        DeviceRule(True, "c", 1, 2**31),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: DeviceRule) -> None:
    with pytest.raises(InvalidArgument):
        bpf.assemble([rule])
