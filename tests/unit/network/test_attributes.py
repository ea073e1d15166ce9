"""Attributes back to back: what is written is what is read."""

from hypothesis import given
from hypothesis import strategies as st

from shim.network import attributes


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40))))
def test_what_is_written_is_read(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(attributes.attribute(kind, value) for kind, value in pairs)
    assert list(attributes.parse(data)) == pairs
    assert len(data) % 4 == 0


@given(st.binary(max_size=100))
def test_garbage_is_no_error(data: bytes) -> None:
    assert sum(len(value) for _, value in attributes.parse(data)) <= len(data)


def test_nested_is_told_by_a_flag() -> None:
    ((kind, value),) = attributes.parse(attributes.nest(7, attributes.be32(1, -300), attributes.text(2, "x")))
    assert (kind, list(attributes.parse(value))) == (7, [(1, b"\xff\xff\xfe\xd4"), (2, b"x\0")])
