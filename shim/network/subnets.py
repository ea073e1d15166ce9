"""Which address range the built-in network takes, and how large its packets may be."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.network import links
from shim.network.links import Route
from shim.network.netlink import NetlinkSocket
from shim.store import records

log = logging.getLogger(__name__)

CANDIDATES: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.88.0.0/16", "10.89.0.0/16", "10.178.0.0/16", "172.28.0.0/16", "192.168.168.0/21")
)
_FILE: Final = "subnet.json"


@dataclass(frozen=True, slots=True)
class SubnetRecord:
    """The range in force.

    Attributes:
        subnet: as a.b.c.d/n.
        chosen: whether it was picked here; else the configuration or the kubelet named it.
    """

    subnet: str
    chosen: bool
    version: int = 1


def recall(directory: str, quarantine: str) -> SubnetRecord | None:
    """Return what was recorded; what cannot be read is set aside with a warning."""
    path = os.path.join(directory, _FILE)
    if not os.path.exists(path):
        return None
    try:
        record = records.load(path, SubnetRecord)
        ipaddress.IPv4Network(record.subnet)
    except (records.UnreadableRecord, ValueError) as error:
        log.warning("the record of the pods' address range is set aside: %s", error)
        os.makedirs(quarantine, 0o700, exist_ok=True)
        os.replace(path, os.path.join(quarantine, f"network-{_FILE}"))
        return None
    return record


def note(directory: str, record: SubnetRecord) -> None:
    """Record the range in force.

    Raises:
        KernelError: the old record holds.
    """
    records.save(os.path.join(directory, _FILE), record)


def pick(
    taken: Iterable[ipaddress.IPv4Network], preferred: ipaddress.IPv4Network | None = None
) -> ipaddress.IPv4Network:
    """Return the first candidate, ``preferred`` before all, that overlaps nothing of ``taken``. Pure.

    Raises:
        FailedPrecondition: all do.
    """
    routes = [route for route in taken if route.prefixlen]
    for candidate in (preferred, *CANDIDATES):
        if candidate is not None and not any(candidate.overlaps(route) for route in routes):
            return candidate
    raise FailedPrecondition(
        f"each of {', '.join(map(str, CANDIDATES))} collides with a route of this node: set network.subnet"
    )


def choose(
    route: NetlinkSocket, bridge: str, preferred: ipaddress.IPv4Network | None = None
) -> ipaddress.IPv4Network:
    """Return a range that collides with no route of this node but those of the bridge itself.

    Raises:
        FailedPrecondition: there is none to be had.
    """
    (missing,) = route.try_request(links.encode_get_link(bridge))
    if missing is not None and missing.errno != errno.ENODEV:
        raise missing
    own = 0 if missing else links.parse_index(route.request(links.encode_get_link(bridge))[0])
    return pick((each.destination for each in _routes(route) if each.index != own), preferred)


def uplink_mtu(route: NetlinkSocket) -> int:
    """Return the MTU of the link with the best default route; 0 where there is none."""
    defaults = [each for each in _routes(route) if each.index and not each.destination.prefixlen]
    if not defaults:
        return 0
    best = min(defaults, key=lambda each: each.metric)
    answers = route.request(links.encode_get_link_by_index(best.index))
    return links.parse_link(answers[0]).mtu if answers else 0


def first_ipv4(cidr: str) -> str:
    """Return the first IPv4 range of a list with commas; empty where it has none. Pure.

    Raises:
        InvalidArgument: it is no list of address ranges, or the range has no room for a pod.
    """
    for text in filter(None, (part.strip() for part in cidr.split(","))):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidArgument(f"pod_cidr {cidr!r} is no address range: {error}") from None
        if network.version == 4:
            if network.num_addresses < 4:
                raise InvalidArgument(f"pod_cidr {cidr!r} has no room for a pod beside the gateway")
            return str(network)
    return ""


def _routes(route: NetlinkSocket) -> Iterator[Route]:
    parsed = map(links.parse_route, route.request(links.encode_dump_routes()))
    return (each for each in parsed if each is not None)
