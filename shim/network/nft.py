"""nftables as netlink messages: the few that one small table needs. Pure.

Source: include/uapi/linux/netfilter/nf_tables.h. Numbers are big-endian, but for what an expression
compares, which is as it lies in the packet or in the kernel's memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from shim.network import netlink
from shim.network.netlink import Message

NETLINK_NETFILTER: Final = 12

PREROUTING: Final = 0
OUTPUT: Final = 3
POSTROUTING: Final = 4
PRIORITY_DST: Final = -100
PRIORITY_SRC: Final = 100

# 32-bit registers; NAME is the 16 bytes of four of them.
REG: Final = tuple(range(8, 24))
REG_NAME: Final = 1

META_OIFNAME: Final = 7
META_L4PROTO: Final = 16
NETWORK: Final = 1
TRANSPORT: Final = 2
EQUAL: Final = 0
UNEQUAL: Final = 1

_SUBSYSTEM: Final = 10
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_FAMILY_IPV4: Final = 2
_NESTED: Final = 0x8000
_MAP: Final = 8
_FIB_ADDRTYPE: Final = 3
_FIB_DADDR: Final = 2
_LOCAL: Final = 2  # RTN_LOCAL
_CT_STATUS: Final = 2
_STATUS_DNAT: Final = 32
_NAT_DST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")

# Types as nft(8) shows them: six bits for each part of a concatenation.
_TYPE_IPV4: Final = 7
_TYPE_PROTOCOL: Final = 12
_TYPE_PORT: Final = 13

Expression = bytes


def _attribute(kind: int, data: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">i" if value < 0 else ">I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _nest(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _message(what: str, kind: int, flags: int, *attributes: bytes) -> Message:
    body = struct.pack(">BBH", _FAMILY_IPV4, 0, 0) + b"".join(attributes)
    flags |= netlink.REQUEST | netlink.ACK
    header = _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM << 8 | kind, flags, 0, 0)
    return Message(what, header + body)


def batch(messages: Sequence[Message]) -> list[Message]:
    """Return messages as one transaction: all of them happen, or none."""
    return [_border("begin", _BATCH_BEGIN), *messages, _border("end", _BATCH_END)]


def _border(what: str, kind: int) -> Message:
    body = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
    header = _HEADER.pack(_HEADER.size + len(body), kind, netlink.REQUEST, 0, 0)
    return Message(f"{what} a transaction of nftables", header + body, wants_ack=False)


def new_table(table: str) -> Message:
    """Make a table; one that is there stays as it is."""
    return _message(f"make nft table {table!r}", 0, netlink.CREATE, _text(1, table), _u32(2, 0))


def delete_table(table: str) -> Message:
    """Remove a table with all that is in it."""
    return _message(f"remove nft table {table!r}", 2, 0, _text(1, table))


def new_chain(table: str, name: str, hook: int, priority: int) -> Message:
    """Make a chain of type nat that accepts what no rule of it changes."""
    where = _nest(4, _u32(1, hook), _u32(2, priority))
    attributes = (_text(1, table), _text(3, name), where, _u32(5, 1), _text(7, "nat"))
    return _message(f"make nft chain {name!r}", 3, netlink.CREATE, *attributes)


def new_map(table: str, name: str, *, with_address: bool) -> Message:
    """Make a map from ([address .] protocol . port) to (address . port)."""
    key_type = _TYPE_PROTOCOL << 6 | _TYPE_PORT | (_TYPE_IPV4 << 12 if with_address else 0)
    attributes = (
        _text(1, table),
        _text(2, name),
        _u32(3, _MAP),
        _u32(4, key_type),
        _u32(5, 12 if with_address else 8),
        _u32(6, _TYPE_IPV4 << 6 | _TYPE_PORT),
        _u32(7, 8),
        _u32(10, 2 if with_address else 1),
    )
    return _message(f"make nft map {name!r}", 9, netlink.CREATE, *attributes)


def add_element(table: str, name: str, key: bytes, value: bytes) -> Message:
    """Add one element to a map; the same one twice is no error."""
    element = _nest(1, _nest(1, _attribute(1, key)), _nest(2, _attribute(1, value)))
    attributes = (_text(1, table), _text(2, name), _nest(3, element))
    return _message(f"add to nft map {name!r}", 12, netlink.CREATE, *attributes)


def delete_element(table: str, name: str, key: bytes) -> Message:
    """Remove one element from a map."""
    element = _nest(1, _nest(1, _attribute(1, key)))
    attributes = (_text(1, table), _text(2, name), _nest(3, element))
    return _message(f"remove from nft map {name!r}", 14, 0, *attributes)


def new_rule(table: str, chain: str, expressions: Iterable[Expression]) -> Message:
    """Add a rule to the end of a chain."""
    attributes = (_text(1, table), _text(2, chain), _nest(4, *expressions))
    return _message(f"add a rule to nft chain {chain!r}", 6, netlink.CREATE | netlink.APPEND, *attributes)


def _expression(name: str, *attributes: bytes) -> Expression:
    return _nest(1, _text(1, name), _nest(2, *attributes))


def meta(key: int, register: int) -> Expression:
    """Load what the kernel knows of a packet."""
    return _expression("meta", _u32(1, register), _u32(2, key))


def payload(base: int, offset: int, length: int, register: int) -> Expression:
    """Load bytes of a header."""
    return _expression("payload", _u32(1, register), _u32(2, base), _u32(3, offset), _u32(4, length))


def compare(register: int, operator: int, value: bytes) -> Expression:
    """Go on if a register is (not) this."""
    return _expression("cmp", _u32(1, register), _u32(2, operator), _nest(3, _attribute(1, value)))


def mask(register: int, bits: bytes) -> Expression:
    """Keep some bits of a register."""
    zero = bytes(len(bits))
    return _expression(
        "bitwise",
        _u32(1, register),
        _u32(2, register),
        _u32(3, len(bits)),
        _nest(4, _attribute(1, bits)),
        _nest(5, _attribute(1, zero)),
    )


def to_this_node(register: int) -> list[Expression]:
    """Go on if the packet's destination is an address of this node."""
    load = _expression("fib", _u32(1, register), _u32(2, _FIB_ADDRTYPE), _u32(3, _FIB_DADDR))
    return [load, compare(register, EQUAL, struct.pack("=I", _LOCAL))]


def was_led_here(register: int) -> list[Expression]:
    """Go on if the packet's destination was translated."""
    bits = struct.pack("=I", _STATUS_DNAT)
    load = _expression("ct", _u32(1, register), _u32(2, _CT_STATUS))
    return [load, mask(register, bits), compare(register, UNEQUAL, bytes(4))]


def lookup(name: str, source: int, target: int) -> Expression:
    """Go on if a map has the key that begins in ``source``; its value comes to ``target``."""
    return _expression("lookup", _text(1, name), _u32(2, source), _u32(3, target))


def translate(address: int, port: int) -> Expression:
    """Lead the packet to what these registers hold."""
    return _expression("nat", _u32(1, _NAT_DST), _u32(2, _FAMILY_IPV4), _u32(3, address), _u32(5, port))


def masquerade() -> Expression:
    """Give the packet the address of the link by which it leaves."""
    return _expression("masq")
