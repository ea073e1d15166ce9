"""Ports of the node that lead to pods, and the address under which pods are seen: one nftables table.

    guard                what comes from the bridge neither goes to 127.0.0.0/8 nor claims to come from there
    prerouting, output   destination is the node: ([address .] protocol . port) -> (address . port), by a map
    postrouting          what leaves the pods' range, comes back to a pod over a port of the node, or comes
                         from 127.0.0.1, carries the address of the link by which it leaves

Each host port is one element of a map, so the rules stay as few however many pods there are. The guard is
the price of ports on 127.0.0.1: answers to them are let in by route_localnet, and so would be a pod that
calls what listens on the node's loopback (CVE-2020-8558).
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Self

from shim.network import conntrack, nft
from shim.network.netlink import Message, NetlinkError, NetlinkSocket
from shim.network.nft import REG, REG_NAME, Expression
from shim.network.port_mappings import PortEntry

_ANY: Final = "ports"
_GIVEN: Final = "address_ports"
_NUMBERS: Final = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
_SOURCE: Final = 12  # offsets in the IPv4 header
_DESTINATION: Final = 16
_LOOPBACK: Final = ipaddress.IPv4Network("127.0.0.0/8")
_ELEMENTS_AT_ONCE: Final = 500  # an attribute has at most 64 KiB, and so has what a socket sends at once


class PortTable:
    """The table of one bridge. Blocking; for one thread.

    Its socket stays open: the kernel lets no socket of nftables close before it has freed what was removed
    over it, which takes some 15 ms.

    Args:
        bridge: whose pods it is about; it gives the table its name.
        subnet: their range.
        masquerade: whether what leaves the range carries the node's address.
    """

    def __init__(self, bridge: str, subnet: ipaddress.IPv4Network, masquerade: bool) -> None:
        self._name = bridge
        self._table = plan_table(bridge, subnet, masquerade=masquerade)
        self._socket = NetlinkSocket(nft.NETLINK_NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the table stays."""
        self._socket.close()

    def exists(self) -> bool:
        """Tell whether the table is there: whoever flushes all rules of a node removes it."""
        (error,) = self._socket.try_request(nft.get_table(self._name))
        if error is not None and error.errno != errno.ENOENT:
            raise error
        return error is None

    def rebuild(self, entries: Iterable[PortEntry]) -> None:
        """Make the table anew, with these ports, in place of one that is there; pods notice nothing.

        Raises:
            NetlinkError: the kernel refuses.
        """
        first, *more = [*plan_elements(self._name, entries)] or [[]]
        self._send([*self._table, *first])
        for messages in more:
            self._send(messages)

    def add(self, entries: Sequence[PortEntry]) -> None:
        """Open ports; flows of UDP that are older than their port come this way too from now on.

        Raises:
            NetlinkError: the kernel refuses; none is open then.
        """
        for messages in plan_elements(self._name, entries):
            self._send(messages)
        conntrack.forget_unled(self._socket, entries)

    def remove(self, entries: Sequence[PortEntry]) -> None:
        """Close ports, and end the flows of UDP that they led. Idempotent."""
        for entry in entries:
            name, key, _ = encode_entry(entry)
            try:
                self._send([nft.delete_element(self._name, name, key)])
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
        conntrack.forget_led(self._socket, entries)

    def delete(self) -> None:
        """Remove the table. Idempotent."""
        self._send([nft.new_table(self._name), nft.delete_table(self._name)])

    def _send(self, messages: Sequence[Message]) -> None:
        self._socket.request(*nft.batch(messages))


def plan_table(bridge: str, subnet: ipaddress.IPv4Network, *, masquerade: bool) -> list[Message]:
    """Return what makes the table anew, without ports. Pure."""
    chains = {
        "guard": ("filter", nft.PREROUTING, nft.PRIORITY_RAW, _plan_guard(bridge)),
        "prerouting": ("nat", nft.PREROUTING, nft.PRIORITY_DST, _plan_ports()),
        "output": ("nat", nft.OUTPUT, nft.PRIORITY_DST, _plan_ports()),
        "postrouting": ("nat", nft.POSTROUTING, nft.PRIORITY_SRC, _plan_sources(bridge, subnet, masquerade)),
    }
    todo = [nft.new_table(bridge), nft.delete_table(bridge), nft.new_table(bridge)]
    todo += [nft.new_map(bridge, _GIVEN, with_address=True), nft.new_map(bridge, _ANY, with_address=False)]
    for chain, (kind, hook, priority, rules) in chains.items():
        todo.append(nft.new_chain(bridge, chain, kind, hook, priority))
        todo += [nft.new_rule(bridge, chain, rule) for rule in rules]
    return todo


def encode_entry(entry: PortEntry) -> tuple[str, bytes, bytes]:
    """Return (map, key, value) of a host port; each part is padded to four bytes. Pure."""
    key = struct.pack(">B3xH2x", _NUMBERS[entry.protocol], entry.host_port)
    value = ipaddress.IPv4Address(entry.pod_ip).packed + struct.pack(">H2x", entry.container_port)
    if entry.host_ip:
        return _GIVEN, ipaddress.IPv4Address(entry.host_ip).packed + key, value
    return _ANY, key, value


def plan_elements(table: str, entries: Iterable[PortEntry]) -> Iterator[list[Message]]:
    """Yield the messages that add host ports, cut into transactions that a socket can send. Pure."""
    encoded = iter([encode_entry(entry) for entry in entries])
    while some := list(itertools.islice(encoded, _ELEMENTS_AT_ONCE)):
        by_map: dict[str, list[tuple[bytes, bytes]]] = {}
        for name, key, value in some:
            by_map.setdefault(name, []).append((key, value))
        yield [nft.add_elements(table, name, elements) for name, elements in by_map.items()]


def _load(offset: int, register: int) -> Expression:
    return nft.payload(nft.NETWORK, offset, 4, register)


def _within(offset: int, network: ipaddress.IPv4Network, operator: int = nft.EQUAL) -> list[Expression]:
    bits = nft.mask(REG[0], network.netmask.packed)
    return [_load(offset, REG[0]), bits, nft.compare(REG[0], operator, network.network_address.packed)]


def _interface(key: int, name: str) -> list[Expression]:
    return [nft.meta(key, REG_NAME), nft.compare(REG_NAME, nft.EQUAL, name.encode().ljust(16, b"\0"))]


def _plan_guard(bridge: str) -> list[list[Expression]]:
    from_bridge = _interface(nft.META_IIFNAME, bridge)
    return [[*from_bridge, *_within(offset, _LOOPBACK), nft.drop()] for offset in (_SOURCE, _DESTINATION)]


def _plan_sources(bridge: str, subnet: ipaddress.IPv4Network, masquerade: bool) -> list[list[Expression]]:
    by_bridge = _interface(nft.META_OIFNAME, bridge)
    from_pods = _within(_SOURCE, subnet)
    rules = [
        [*by_bridge, *from_pods, *nft.was_led_here(REG[0]), nft.masquerade()],
        [*by_bridge, *_within(_SOURCE, _LOOPBACK), nft.masquerade()],
    ]
    if masquerade:
        outside = _within(_DESTINATION, subnet, nft.UNEQUAL)
        rules.append([*from_pods, *outside, nft.masquerade()])
    return rules


def _plan_ports() -> list[list[Expression]]:
    to_given = [
        *nft.to_this_node(REG[0]),
        _load(_DESTINATION, REG[0]),
        nft.meta(nft.META_L4PROTO, REG[1]),
        nft.payload(nft.TRANSPORT, 2, 2, REG[2]),
        nft.lookup(_GIVEN, REG[0], REG[4]),
        nft.translate(REG[4], REG[5]),
    ]
    to_any = [
        *nft.to_this_node(REG[0]),
        nft.meta(nft.META_L4PROTO, REG[0]),
        nft.payload(nft.TRANSPORT, 2, 2, REG[1]),
        nft.lookup(_ANY, REG[0], REG[4]),
        nft.translate(REG[4], REG[5]),
    ]
    return [to_given, to_any]
