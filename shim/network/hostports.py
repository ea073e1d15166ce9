"""Ports of the node that lead to pods, and the address under which pods are seen: one nftables table.

    prerouting, output   destination is the node: (address . protocol . port) -> (address . port), by a map
    postrouting          what leaves the pods' range, comes back to a pod over a port of the node, or comes
                         from 127.0.0.1, carries the address of the link by which it leaves

Each host port is one element of a map, so the rules stay as few however many pods there are.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.network import nft
from shim.network.netlink import Message, NetlinkError, NetlinkSocket
from shim.network.nft import REG, REG_NAME, Expression

_ANY: Final = "ports"
_GIVEN: Final = "address_ports"
_NUMBERS: Final = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
_KINDS: Final = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
_SOURCE: Final = 12  # offsets in the IPv4 header
_DESTINATION: Final = 16


@dataclass(frozen=True, slots=True)
class PortEntry:
    """One port of the node that leads to a pod.

    Attributes:
        protocol: ``TCP`` or ``UDP``.
        host_ip: IPv4 address of the node; empty: any.
        pod_ip: IPv4 address of the pod; empty while it has none yet.
    """

    protocol: str
    host_ip: str
    host_port: int
    pod_ip: str
    container_port: int


class PortTable:
    """The table of one bridge. Blocking; for one thread.

    Args:
        name: of the table.
        bridge: whose pods it is about.
        subnet: their range.
        masquerade: whether what leaves the range carries the node's address.
    """

    def __init__(self, name: str, bridge: str, subnet: ipaddress.IPv4Network, masquerade: bool) -> None:
        self._name = name
        self._bridge = bridge
        self._subnet = subnet
        self._masquerade = masquerade

    def rebuild(self, entries: Iterable[PortEntry]) -> None:
        """Make the table anew, with these ports, in place of one that is there; pods notice nothing.

        Raises:
            NetlinkError: the kernel refuses.
        """
        name = self._name
        todo = [nft.new_table(name), nft.delete_table(name), nft.new_table(name)]
        todo += [
            nft.new_map(name, _GIVEN, with_address=True),
            nft.new_map(name, _ANY, with_address=False),
            nft.new_chain(name, "prerouting", nft.PREROUTING, nft.PRIORITY_DST),
            nft.new_chain(name, "output", nft.OUTPUT, nft.PRIORITY_DST),
            nft.new_chain(name, "postrouting", nft.POSTROUTING, nft.PRIORITY_SRC),
        ]
        for chain in ("prerouting", "output"):
            todo += [nft.new_rule(name, chain, rule) for rule in _plan_ports()]
        todo += [nft.new_rule(name, "postrouting", rule) for rule in self._plan_sources()]
        self._send([*todo, *map(self._add, entries)])

    def add(self, entries: Sequence[PortEntry]) -> None:
        """Open ports.

        Raises:
            NetlinkError: the kernel refuses; none is open then.
        """
        if entries:
            self._send([self._add(entry) for entry in entries])

    def remove(self, entries: Sequence[PortEntry]) -> None:
        """Close ports. Idempotent."""
        for entry in entries:
            name, key, _ = encode_entry(entry)
            try:
                self._send([nft.delete_element(self._name, name, key)])
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise

    def delete(self) -> None:
        """Remove the table. Idempotent."""
        self._send([nft.new_table(self._name), nft.delete_table(self._name)])

    def _add(self, entry: PortEntry) -> Message:
        name, key, value = encode_entry(entry)
        return nft.add_element(self._name, name, key, value)

    def _send(self, messages: Sequence[Message]) -> None:
        with NetlinkSocket(nft.NETLINK_NETFILTER) as sock:
            sock.request(*nft.batch(messages))

    def _plan_sources(self) -> list[list[Expression]]:
        net, bits = self._subnet.network_address.packed, self._subnet.netmask.packed
        from_pods = [_load(_SOURCE, REG[0]), nft.mask(REG[0], bits), nft.compare(REG[0], nft.EQUAL, net)]
        by_bridge = [
            nft.meta(nft.META_OIFNAME, REG_NAME),
            nft.compare(REG_NAME, nft.EQUAL, self._bridge.encode().ljust(16, b"\0")),
        ]
        outside = [
            _load(_DESTINATION, REG[0]),
            nft.mask(REG[0], bits),
            nft.compare(REG[0], nft.UNEQUAL, net),
        ]
        loopback = [
            _load(_SOURCE, REG[0]),
            nft.mask(REG[0], bytes((255, 0, 0, 0))),
            nft.compare(REG[0], nft.EQUAL, bytes((127, 0, 0, 0))),
        ]
        rules = [
            [*by_bridge, *from_pods, *nft.was_led_here(REG[0]), nft.masquerade()],
            [*by_bridge, *loopback, nft.masquerade()],
        ]
        if self._masquerade:
            rules.append([*from_pods, *outside, nft.masquerade()])
        return rules


def encode_entry(entry: PortEntry) -> tuple[str, bytes, bytes]:
    """Return (map, key, value) of a host port; each part is padded to four bytes. Pure."""
    key = struct.pack(">B3xH2x", _NUMBERS[entry.protocol], entry.host_port)
    value = ipaddress.IPv4Address(entry.pod_ip).packed + struct.pack(">H2x", entry.container_port)
    if entry.host_ip:
        return _GIVEN, ipaddress.IPv4Address(entry.host_ip).packed + key, value
    return _ANY, key, value


def check_free(entries: Iterable[PortEntry]) -> None:
    """Check that no process of the node listens on these ports.

    Raises:
        FailedPrecondition: one does. InvalidArgument: host_ip is no address of this node.
    """
    for entry in entries:
        with socket.socket(socket.AF_INET, _KINDS[entry.protocol] | socket.SOCK_CLOEXEC) as sock:
            if entry.protocol == "TCP":
                # Connections of an earlier pod that are still in TIME_WAIT are nobody's.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((entry.host_ip, entry.host_port))
            except OSError as error:
                _explain(entry, error)


def _explain(entry: PortEntry, error: OSError) -> None:
    if error.errno == errno.EADDRINUSE:
        raise FailedPrecondition(
            f"host port {entry.host_port}/{entry.protocol} is in use: a process of this node listens on it"
        ) from error
    if error.errno == errno.EADDRNOTAVAIL:
        raise InvalidArgument(f"host_ip {entry.host_ip!r} is no address of this node") from error
    raise error


def _load(offset: int, register: int) -> Expression:
    return nft.payload(nft.NETWORK, offset, 4, register)


def _plan_ports() -> list[list[Expression]]:
    given = [
        _load(_DESTINATION, REG[0]),
        nft.meta(nft.META_L4PROTO, REG[1]),
        nft.payload(nft.TRANSPORT, 2, 2, REG[2]),
        nft.lookup(_GIVEN, REG[0], REG[4]),
        nft.translate(REG[4], REG[5]),
    ]
    anywhere = [
        *nft.to_this_node(REG[0]),
        nft.meta(nft.META_L4PROTO, REG[0]),
        nft.payload(nft.TRANSPORT, 2, 2, REG[1]),
        nft.lookup(_ANY, REG[0], REG[4]),
        nft.translate(REG[4], REG[5]),
    ]
    return [given, anywhere]
