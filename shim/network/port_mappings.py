"""Which ports of the node lead to which pod, and what stands in the way of one."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.network import PortMapping

# (type, number) of the sockets that listen, by protocol.
_KINDS: Final = {
    "TCP": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "UDP": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "SCTP": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_NO_SUCH_SOCKETS: Final = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class PortEntry:
    """One port of the node that leads to a pod, in one IP version.

    Attributes:
        protocol: ``TCP``, ``UDP`` or ``SCTP``.
        host_ip: address of the node; empty: any of this version.
        pod_ip: address of the pod; empty while it has none yet.
        version: of IP, 4 or 6.
    """

    protocol: str
    host_ip: str
    host_port: int
    pod_ip: str
    container_port: int
    version: int = 4


def plan(mappings: Iterable[PortMapping], versions: Collection[int] = (4,)) -> tuple[PortEntry, ...]:
    """Return what leads from outside to a pod whose addresses are not known yet. Pure.

    Args:
        mappings: those with host_port 0 lead nowhere.
        versions: of IP that the pod is going to have.

    Raises:
        InvalidArgument: a mapping clashes with another of this pod, or can never be carried out.
    """
    entries: list[PortEntry] = []
    for mapping in mappings:
        if not mapping.host_port:
            continue
        what = f"host port {mapping.host_port}/{mapping.protocol.name}"
        for entry in _entries(what, mapping, versions):
            if any(clash(entry, other) for other in entries):
                raise InvalidArgument(f"{what} is named twice")
            entries.append(entry)
    return tuple(entries)


def clash(one: PortEntry, other: PortEntry) -> bool:
    """Tell whether one packet could be meant for both. Pure."""
    if key(one) != key(other):
        return False
    return not one.host_ip or not other.host_ip or one.host_ip == other.host_ip


def key(entry: PortEntry) -> tuple[int, str, int]:
    """Return what two entries must share to clash. Pure."""
    return entry.version, entry.protocol, entry.host_port


def check_free(entries: Iterable[PortEntry]) -> None:
    """Check that no process of the node listens on these ports.

    Raises:
        FailedPrecondition: one does. InvalidArgument: host_ip is no address of this node.
    """
    for entry in entries:
        kind, number = _KINDS[entry.protocol]
        try:
            sock = socket.socket(_FAMILIES[entry.version], kind | socket.SOCK_CLOEXEC, number)
        except OSError as error:
            if error.errno in _NO_SUCH_SOCKETS:
                continue  # a protocol that no process of the node can speak, so none listens
            raise
        with sock:
            if entry.version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if entry.protocol != "UDP":
                # Connections of an earlier pod that are still in TIME_WAIT are nobody's.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((entry.host_ip, entry.host_port))
            except OSError as error:
                _explain(entry, error)


def _entries(what: str, mapping: PortMapping, versions: Collection[int]) -> Iterator[PortEntry]:
    """Yield one entry for each IP version that is meant: both, where no address is named."""
    host_ip, meant = _host_ip(what, mapping.host_ip)
    wanted = [version for version in meant if version in versions]
    if not wanted:
        raise InvalidArgument(
            f"{what}: host_ip {mapping.host_ip!r} is of IPv{meant[0]}, and pods have no address of that here"
        )
    for version in wanted:
        yield PortEntry(
            mapping.protocol.name, host_ip, mapping.host_port, "", mapping.container_port, version
        )


def _host_ip(what: str, text: str) -> tuple[str, tuple[int, ...]]:
    """Return (address, or empty for any; the IP versions that it means)."""
    if not text:
        return "", (4, 6)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"{what}: host_ip {text!r} is no IP address") from None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.version == 6 and address.is_loopback:
        raise InvalidArgument(
            f"{what}: host_ip {text!r} cannot lead to a pod: the kernel lets nothing of ::1 leave the"
            " loopback interface; name 127.0.0.1, or another address of the node"
        )
    if address.is_link_local or address.is_multicast:
        raise InvalidArgument(f"{what}: host_ip {text!r} is {_scope(address)}, which cannot lead to a pod")
    return "" if address.is_unspecified else str(address), (address.version,)


def _scope(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return "a multicast address" if address.is_multicast else "a link-local address"


def _explain(entry: PortEntry, error: OSError) -> None:
    if error.errno == errno.EADDRINUSE:
        raise FailedPrecondition(
            f"host port {entry.host_port}/{entry.protocol} is in use: a process of this node listens on it"
        ) from error
    if error.errno == errno.EADDRNOTAVAIL:
        raise InvalidArgument(f"host_ip {entry.host_ip!r} is no address of this node") from error
    raise error
