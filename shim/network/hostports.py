"""Ports of the node that lead to pods, and the address under which pods are seen: our nftables table.

    guard                what comes from the bridge neither goes to 127.0.0.0/8 nor claims to come from there
    prerouting, output   destination is the node: ([address .] protocol . port) -> (address . port), by a map
    forward              where pods are isolated: from pod to pod only what a port of the node led there
    postrouting          what leaves the pods' range, comes back to a pod over a port of the node, or comes
                         from 127.0.0.1, carries the address of the link by which it leaves

There is one for each version of IP that pods have, of the same name and made in the same transaction: a
kernel without one of them still has the other. Each host port is one element of a map, so the rules stay as
few however many pods there are.

The guard is the price of ports on 127.0.0.1: answers to them are let in by route_localnet, and so would be a
pod that calls what listens on the node's loopback (CVE-2020-8558). IPv6 has no such switch: nothing of ::1
enters or leaves the loopback interface, so it needs no guard; and what goes there is led nowhere, and refused
at once instead of lost.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Self

from shim.network import nft
from shim.network.links import Network
from shim.network.netlink import Message, NetlinkError, NetlinkSocket
from shim.network.nft import REG, REG_NAME, Expression
from shim.network.port_mappings import PortEntry

_ANY: Final = "ports"
_GIVEN: Final = "address_ports"
_NUMBERS: Final = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}
_VERSIONS: Final = (4, 6)
_SOURCE: Final = {4: 12, 6: 8}  # offsets in the IP header
_DESTINATION: Final = {4: 16, 6: 24}
_ADDRESS_BYTES: Final = {4: 4, 6: 16}
_LOOPBACK: Final[dict[int, Network]] = {
    4: ipaddress.IPv4Network("127.0.0.0/8"),
    6: ipaddress.IPv6Network("::1/128"),
}
_ELEMENTS_AT_ONCE: Final = 500  # an attribute has at most 64 KiB, and so has what a socket sends at once


class PortTable:
    """The tables of one bridge. Blocking; for one thread.

    Its socket stays open: the kernel lets no socket of nftables close before it has freed what was removed
    over it, which takes some 15 ms.

    Args:
        bridge: whose pods it is about; it gives the tables their name.
        pools: their ranges.
        masquerade: whether what leaves the ranges carries the node's address.
        isolated: whether pods reach each other only by ports of the node.
    """

    def __init__(
        self, bridge: str, pools: Iterable[Network], masquerade: bool = True, isolated: bool = False
    ) -> None:
        self._bridge = bridge
        self._tables: dict[int, nft.Table] = {pool.version: nft.Table(bridge, pool.version) for pool in pools}
        self._plan = [
            message
            for pool in pools
            for message in plan_table(bridge, pool, masquerade=masquerade, isolated=isolated)
        ]
        self._socket = NetlinkSocket(nft.NETLINK_NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the tables stay."""
        self._socket.close()

    def exists(self) -> bool:
        """Tell whether all tables are there: whoever flushes all rules of a node removes them."""
        errors = self._socket.try_request(*(nft.get_table(table) for table in self._tables.values()))
        for error in errors:
            if error is not None and error.errno != errno.ENOENT:
                raise error
        return not any(errors)

    def rebuild(self, entries: Iterable[PortEntry]) -> None:
        """Make the tables anew, with these ports, in place of those that are there; pods notice nothing.

        Raises:
            NetlinkError: the kernel refuses.
        """
        self._delete(version for version in _VERSIONS if version not in self._tables)
        first, *more = [*plan_elements(self._bridge, self._with_table(entries))] or [[]]
        self._send([*self._plan, *first])
        for messages in more:
            self._send(messages)

    def add(self, entries: Sequence[PortEntry]) -> None:
        """Open ports; for flows of UDP that are older than their port see ``conntrack``.

        Raises:
            NetlinkError: the kernel refuses; none is open then.
        """
        for messages in plan_elements(self._bridge, entries):
            self._send(messages)

    def remove(self, entries: Sequence[PortEntry]) -> None:
        """Close ports; the flows of UDP that they led go on. Idempotent."""
        for entry in self._with_table(entries):
            name, key, _ = encode_entry(entry)
            try:
                self._send([nft.delete_element(self._tables[entry.version], name, key)])
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise

    def delete(self) -> None:
        """Remove the tables, of every version of IP. Idempotent."""
        self._delete(_VERSIONS)

    def _delete(self, versions: Iterable[int]) -> None:
        """Remove tables that are there; what the kernel cannot even look for is not."""
        for table in (nft.Table(self._bridge, version) for version in versions):
            if self._socket.try_request(nft.get_table(table)) == [None]:
                self._send([nft.delete_table(table)])

    def _with_table(self, entries: Iterable[PortEntry]) -> list[PortEntry]:
        """Return the ports that have a map: those of pods that are older than the lack of IPv6 have none."""
        return [entry for entry in entries if entry.version in self._tables]

    def _send(self, messages: Sequence[Message]) -> None:
        self._socket.request(*nft.batch(messages))


def plan_table(bridge: str, pool: Network, *, masquerade: bool, isolated: bool = False) -> list[Message]:
    """Return what makes the table of one IP version anew, without ports. Pure."""
    version, table = pool.version, nft.Table(bridge, pool.version)
    sources = _plan_sources(bridge, pool, masquerade)
    chains = {
        "prerouting": ("nat", nft.PREROUTING, nft.PRIORITY_DST, _plan_ports(version)),
        "output": ("nat", nft.OUTPUT, nft.PRIORITY_DST, _plan_ports(version)),
        "postrouting": ("nat", nft.POSTROUTING, nft.PRIORITY_SRC, sources),
    }
    if version == 4:
        chains["guard"] = ("filter", nft.PREROUTING, nft.PRIORITY_RAW, _plan_guard(bridge))
    if isolated:
        chains["forward"] = ("filter", nft.FORWARD, nft.PRIORITY_FILTER, [_plan_isolation(bridge)])
    todo = [nft.new_table(table), nft.delete_table(table), nft.new_table(table)]
    todo += [nft.new_map(table, _GIVEN, with_address=True), nft.new_map(table, _ANY, with_address=False)]
    for chain, (kind, hook, priority, rules) in chains.items():
        todo.append(nft.new_chain(table, chain, kind, hook, priority))
        todo += [nft.new_rule(table, chain, rule) for rule in rules]
    return todo


def encode_entry(entry: PortEntry) -> tuple[str, bytes, bytes]:
    """Return (map, key, value) of a host port; each part is padded to four bytes. Pure."""
    key = struct.pack(">B3xH2x", _NUMBERS[entry.protocol], entry.host_port)
    value = ipaddress.ip_address(entry.pod_ip).packed + struct.pack(">H2x", entry.container_port)
    if entry.host_ip:
        return _GIVEN, ipaddress.ip_address(entry.host_ip).packed + key, value
    return _ANY, key, value


def plan_elements(bridge: str, entries: Iterable[PortEntry]) -> Iterator[list[Message]]:
    """Yield the messages that add host ports, cut into transactions that a socket can send. Pure."""
    encoded = iter([(entry.version, *encode_entry(entry)) for entry in entries])
    while some := list(itertools.islice(encoded, _ELEMENTS_AT_ONCE)):
        by_map: dict[tuple[int, str], list[tuple[bytes, bytes]]] = {}
        for version, name, key, value in some:
            by_map.setdefault((version, name), []).append((key, value))
        yield [
            nft.add_elements(nft.Table(bridge, version), name, elements)
            for (version, name), elements in by_map.items()
        ]


def _load(version: int, offsets: dict[int, int], register: int) -> Expression:
    return nft.payload(nft.NETWORK, offsets[version], _ADDRESS_BYTES[version], register)


def _within(offsets: dict[int, int], network: Network, operator: int = nft.EQUAL) -> list[Expression]:
    load = _load(network.version, offsets, REG[0])
    bits = nft.mask(REG[0], network.netmask.packed)
    return [load, bits, nft.compare(REG[0], operator, network.network_address.packed)]


def _interface(key: int, name: str) -> list[Expression]:
    return [nft.meta(key, REG_NAME), nft.compare(REG_NAME, nft.EQUAL, name.encode().ljust(16, b"\0"))]


def _plan_guard(bridge: str) -> list[list[Expression]]:
    """Return rules that every packet between pods meets: one byte tells that most are of no concern."""
    first_byte = nft.compare(REG[0], nft.EQUAL, _LOOPBACK[4].network_address.packed[:1])
    from_bridge = _interface(nft.META_IIFNAME, bridge)
    return [
        [nft.payload(nft.NETWORK, offsets[4], 1, REG[0]), first_byte, *from_bridge, nft.drop()]
        for offsets in (_SOURCE, _DESTINATION)
    ]


def _plan_isolation(bridge: str) -> list[Expression]:
    between = [*_interface(nft.META_IIFNAME, bridge), *_interface(nft.META_OIFNAME, bridge)]
    return [*between, *nft.was_led_here(REG[0], nft.EQUAL), nft.drop()]


def _plan_sources(bridge: str, pool: Network, masquerade: bool) -> list[list[Expression]]:
    by_bridge = _interface(nft.META_OIFNAME, bridge)
    from_pods = _within(_SOURCE, pool)
    rules = [[*by_bridge, *from_pods, *nft.was_led_here(REG[0]), nft.masquerade()]]
    if pool.version == 4:
        rules.append([*by_bridge, *_within(_SOURCE, _LOOPBACK[4]), nft.masquerade()])
    if masquerade:
        outside = _within(_DESTINATION, pool, nft.UNEQUAL)
        rules.append([*from_pods, *outside, nft.masquerade()])
    return rules


def _plan_ports(version: int) -> list[list[Expression]]:
    """Return two rules: for ports of one address, then for those of any."""
    to_node = [*nft.to_this_node(REG[0])]
    if version == 6:
        to_node += _within(_DESTINATION, _LOOPBACK[6], nft.UNEQUAL)
    words = _ADDRESS_BYTES[version] // 4
    rules = []
    for name, address in ((_GIVEN, [_load(version, _DESTINATION, REG[0])]), (_ANY, [])):
        at = words if address else 0
        rules.append(
            [
                *to_node,
                *address,
                nft.meta(nft.META_L4PROTO, REG[at]),
                nft.payload(nft.TRANSPORT, 2, 2, REG[at + 1]),
                nft.lookup(name, REG[0], REG[8]),
                nft.translate(version, REG[8], REG[8 + words]),
            ]
        )
    return rules
