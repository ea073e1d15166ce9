"""nftables as netlink messages: the few that one small table needs. Pure.

Source: include/uapi/linux/netfilter/nf_tables.h. Numbers are big-endian, but for what an expression
compares, which is as it lies in the packet or in the kernel's memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shim.network import netlink
from shim.network.attributes import attribute, be32, nest, text
from shim.network.netlink import Message

NETLINK_NETFILTER: Final = 12

FAMILIES: Final = {4: 2, 6: 10}  # NFPROTO_* by IP version

PREROUTING: Final = 0
FORWARD: Final = 2
OUTPUT: Final = 3
POSTROUTING: Final = 4
PRIORITY_RAW: Final = -300
PRIORITY_DST: Final = -100
PRIORITY_FILTER: Final = 0
PRIORITY_SRC: Final = 100

# 32-bit registers; NAME is the 16 bytes of four of them.
REG: Final = tuple(range(8, 24))
REG_NAME: Final = 1

META_IIFNAME: Final = 6
META_OIFNAME: Final = 7
META_L4PROTO: Final = 16
NETWORK: Final = 1
TRANSPORT: Final = 2
EQUAL: Final = 0
UNEQUAL: Final = 1

_SUBSYSTEM: Final = 10
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_MAP: Final = 8
_FIB_ADDRTYPE: Final = 3
_FIB_DADDR: Final = 2
_LOCAL: Final = 2  # RTN_LOCAL
_CT_STATUS: Final = 2
_STATUS_DNAT: Final = 32
_NAT_DST: Final = 1
_VERDICT: Final = 0
_DROP: Final = 0
_HEADER: Final = struct.Struct("=IHHII")

# Types as nft(8) shows them: six bits for each part of a concatenation.
_TYPE_ADDRESS: Final = {4: 7, 6: 8}
_TYPE_PROTOCOL: Final = 12
_TYPE_PORT: Final = 13

_ADDRESS_BYTES: Final = {4: 4, 6: 16}

Expression = bytes


@dataclass(frozen=True, slots=True)
class Table:
    """A table for packets of one IP version, 4 or 6."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"nft table {self.name!r} of IPv{self.version}"


def _message(what: str, table: Table, kind: int, flags: int, *attributes: bytes) -> Message:
    body = struct.pack(">BBH", FAMILIES[table.version], 0, 0) + b"".join(attributes)
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


def new_table(table: Table) -> Message:
    """Make a table; one that is there stays as it is."""
    attributes = (text(1, table.name), be32(2, 0))
    return _message(f"make {table}", table, 0, netlink.CREATE, *attributes)


def delete_table(table: Table) -> Message:
    """Remove a table with all that is in it."""
    return _message(f"remove {table}", table, 2, 0, text(1, table.name))


def get_table(table: Table) -> Message:
    """Ask for a table; it is no part of a transaction."""
    return _message(f"find {table}", table, 1, 0, text(1, table.name))


def dump_chains() -> Message:
    """Ask for all chains, of whatever family; it is no part of a transaction."""
    return _dump("list nft chains", 0, 4)


def dump_rules(family: int, table: str) -> Message:
    """Ask for all rules of a table, whoever's it is; NFPROTO_* says the family."""
    return _dump(f"list rules of nft table {table!r}", family, 7, text(1, table))


def _dump(what: str, family: int, kind: int, *attributes: bytes) -> Message:
    body = struct.pack(">BBH", family, 0, 0) + b"".join(attributes)
    flags = netlink.REQUEST | netlink.DUMP
    header = _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM << 8 | kind, flags, 0, 0)
    return Message(what, header + body)


def new_chain(table: Table, name: str, kind: str, hook: int, priority: int) -> Message:
    """Make a chain of type ``nat`` or ``filter`` that accepts what no rule of it changes."""
    where = nest(4, be32(1, hook), be32(2, priority))
    attributes = (text(1, table.name), text(3, name), where, be32(5, 1), text(7, kind))
    return _message(f"make nft chain {name!r}", table, 3, netlink.CREATE, *attributes)


def new_map(table: Table, name: str, *, with_address: bool) -> Message:
    """Make a map from ([address .] protocol . port) to (address . port)."""
    address, address_bytes = _TYPE_ADDRESS[table.version], _ADDRESS_BYTES[table.version]
    key_type = _TYPE_PROTOCOL << 6 | _TYPE_PORT | (address << 12 if with_address else 0)
    attributes = (
        text(1, table.name),
        text(2, name),
        be32(3, _MAP),
        be32(4, key_type),
        be32(5, address_bytes + 8 if with_address else 8),
        be32(6, address << 6 | _TYPE_PORT),
        be32(7, address_bytes + 4),
        be32(10, 2 if with_address else 1),
    )
    return _message(f"make nft map {name!r}", table, 9, netlink.CREATE, *attributes)


def add_elements(table: Table, name: str, elements: Iterable[tuple[bytes, bytes]]) -> Message:
    """Add (key, value) pairs to a map; the same one twice is no error. At most some 500 fit."""
    nested = (nest(1, nest(1, attribute(1, key)), nest(2, attribute(1, value))) for key, value in elements)
    attributes = (text(1, table.name), text(2, name), nest(3, *nested))
    return _message(f"add to nft map {name!r}", table, 12, netlink.CREATE, *attributes)


def delete_element(table: Table, name: str, key: bytes) -> Message:
    """Remove one element from a map."""
    element = nest(1, nest(1, attribute(1, key)))
    attributes = (text(1, table.name), text(2, name), nest(3, element))
    return _message(f"remove from nft map {name!r}", table, 14, 0, *attributes)


def new_rule(table: Table, chain: str, expressions: Iterable[Expression]) -> Message:
    """Add a rule to the end of a chain."""
    attributes = (text(1, table.name), text(2, chain), nest(4, *expressions))
    return _message(
        f"add a rule to nft chain {chain!r}", table, 6, netlink.CREATE | netlink.APPEND, *attributes
    )


def _expression(name: str, *attributes: bytes) -> Expression:
    return nest(1, text(1, name), nest(2, *attributes))


def meta(key: int, register: int) -> Expression:
    """Load what the kernel knows of a packet."""
    return _expression("meta", be32(1, register), be32(2, key))


def payload(base: int, offset: int, length: int, register: int) -> Expression:
    """Load bytes of a header."""
    return _expression("payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, length))


def compare(register: int, operator: int, value: bytes) -> Expression:
    """Go on if a register is (not) this."""
    return _expression("cmp", be32(1, register), be32(2, operator), nest(3, attribute(1, value)))


def mask(register: int, bits: bytes) -> Expression:
    """Keep some bits of a register."""
    zero = bytes(len(bits))
    return _expression(
        "bitwise",
        be32(1, register),
        be32(2, register),
        be32(3, len(bits)),
        nest(4, attribute(1, bits)),
        nest(5, attribute(1, zero)),
    )


def to_this_node(register: int) -> list[Expression]:
    """Go on if the packet's destination is an address of this node."""
    load = _expression("fib", be32(1, register), be32(2, _FIB_ADDRTYPE), be32(3, _FIB_DADDR))
    return [load, compare(register, EQUAL, struct.pack("=I", _LOCAL))]


def was_led_here(register: int, operator: int = UNEQUAL) -> list[Expression]:
    """Go on if the packet's destination was translated, with ``EQUAL`` if it was not."""
    bits = struct.pack("=I", _STATUS_DNAT)
    load = _expression("ct", be32(1, register), be32(2, _CT_STATUS))
    return [load, mask(register, bits), compare(register, operator, bytes(4))]


def lookup(name: str, source: int, target: int) -> Expression:
    """Go on if a map has the key that begins in ``source``; its value comes to ``target``."""
    return _expression("lookup", text(1, name), be32(2, source), be32(3, target))


def translate(version: int, address: int, port: int) -> Expression:
    """Lead the packet to what these registers hold."""
    return _expression("nat", be32(1, _NAT_DST), be32(2, FAMILIES[version]), be32(3, address), be32(5, port))


def drop() -> Expression:
    """Throw the packet away."""
    return _expression("immediate", be32(1, _VERDICT), nest(2, nest(2, be32(1, _DROP))))


def masquerade() -> Expression:
    """Give the packet the address of the link by which it leaves."""
    return _expression("masq")
