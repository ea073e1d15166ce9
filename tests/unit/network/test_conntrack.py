"""Flows that the kernel lists: what names one, and what its status says."""

import struct

from shim.network.attributes import attribute, nest
from shim.network.conntrack import parse_flow

HEADER = bytes(20)


def test_a_flow_is_named_by_its_first_direction_and_zone() -> None:
    first = nest(1, nest(1, attribute(1, bytes((10, 0, 0, 1)))))
    data = HEADER + first + nest(2, attribute(1, b"abcd")) + attribute(3, struct.pack(">I", 0x20))
    assert parse_flow(data) == (0x20, first)
    zone = attribute(18, b"\0\7")
    assert parse_flow(data + zone) == (0x20, first + zone)
    assert parse_flow(HEADER) == (0, b"")
