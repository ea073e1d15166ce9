"""Which ports of the node lead to which pod, and what stands in the way of one."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.network import PortMapping

_KINDS: Final = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
_ANYWHERE: Final = frozenset(("", "0.0.0.0", "::"))  # noqa: S104  # compared, never bound


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


def plan(mappings: Iterable[PortMapping]) -> tuple[PortEntry, ...]:
    """Return what leads from outside to a pod whose address is not known yet. Pure.

    Raises:
        InvalidArgument: a mapping clashes with another of this pod, or can never be carried out.
    """
    entries: list[PortEntry] = []
    for mapping in mappings:
        if not mapping.host_port:
            continue
        protocol = mapping.protocol.name
        what = f"host port {mapping.host_port}/{protocol}"
        if protocol not in _KINDS:
            raise InvalidArgument(f"{what}: this protocol is not supported")
        entry = PortEntry(
            protocol, _host_ip(what, mapping.host_ip), mapping.host_port, "", mapping.container_port
        )
        if any(clash(entry, other) for other in entries):
            raise InvalidArgument(f"{what} is named twice")
        entries.append(entry)
    return tuple(entries)


def clash(one: PortEntry, other: PortEntry) -> bool:
    """Tell whether one packet could be meant for both. Pure."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    return not one.host_ip or not other.host_ip or one.host_ip == other.host_ip


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


def _host_ip(what: str, text: str) -> str:
    if text in _ANYWHERE:
        return ""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise InvalidArgument(
            f"{what}: host_ip {text!r} is no IPv4 address, which is all that the built-in network has"
        ) from None


def _explain(entry: PortEntry, error: OSError) -> None:
    if error.errno == errno.EADDRINUSE:
        raise FailedPrecondition(
            f"host port {entry.host_port}/{entry.protocol} is in use: a process of this node listens on it"
        ) from error
    if error.errno == errno.EADDRNOTAVAIL:
        raise InvalidArgument(f"host_ip {entry.host_ip!r} is no address of this node") from error
    raise error
