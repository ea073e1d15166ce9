"""Which address ranges the built-in network takes, and how large its packets may be."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.network import links, pools
from shim.network.links import Network, Route
from shim.network.netlink import NetlinkSocket
from shim.network.pools import Pools
from shim.store import records

log = logging.getLogger(__name__)

CANDIDATES: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.88.0.0/16", "10.89.0.0/16", "10.178.0.0/16", "172.28.0.0/16", "192.168.168.0/21")
)
_UNIQUE_LOCAL: Final = b"\xfd"
_TRIES: Final = 8  # 40 random bits collide with a route that was drawn the same way, or never
_FILE: Final = "subnet.json"


@dataclass(frozen=True, slots=True)
class SubnetRecord:
    """The ranges in force.

    Attributes:
        subnet: of IPv4, as a.b.c.d/n; empty for none.
        chosen: whether they were picked here; else the configuration or the kubelet named them.
        subnet6: of IPv6; empty for none, or for one that is still to be picked.
    """

    subnet: str
    chosen: bool
    subnet6: str = ""
    version: int = 1

    @property
    def pools(self) -> Pools:
        """As ranges."""
        return pools.parse("subnet", f"{self.subnet},{self.subnet6}")


def recall(directory: str, quarantine: str) -> SubnetRecord | None:
    """Return what was recorded; what cannot be read is set aside with a warning."""
    path = os.path.join(directory, _FILE)
    if not os.path.exists(path):
        return None
    try:
        record = records.load(path, SubnetRecord)
        pools.at_least_one("subnet", record.pools)
    except (records.UnreadableRecord, InvalidArgument) as error:
        log.warning("the record of the pods' address range is set aside: %s", error)
        os.makedirs(quarantine, 0o700, exist_ok=True)
        os.replace(path, os.path.join(quarantine, f"network-{_FILE}"))
        return None
    return record


def note(directory: str, record: SubnetRecord) -> None:
    """Record the ranges in force.

    Raises:
        KernelError: the old record holds.
    """
    records.save(os.path.join(directory, _FILE), record)


def plan(
    told: Pools | None, before: Pools, in_use: Collection[int]
) -> tuple[dict[int, Network], dict[int, Network | None]]:
    """Return (ranges that are settled, what is to be chosen with what is preferred), by IP version. Pure.

    Args:
        told: what the configuration or the kubelet names; None: nothing, so both are chosen here.
        before: the recorded ranges.
        in_use: IP versions of which pods have addresses: their range stays.
    """
    settled: dict[int, Network] = {}
    open_: dict[int, Network | None] = {}
    for version, old, named in (
        (4, before.v4, told.v4 if told else None),
        (6, before.v6, told.v6 if told else None),
    ):
        if old is not None and version in in_use:
            settled[version] = old
        elif told is None:
            open_[version] = old
        elif named is not None:
            settled[version] = named
    return settled, open_


def pick(taken: Iterable[Network], candidates: Iterable[Network]) -> Network:
    """Return the first candidate that overlaps nothing of ``taken``, which may name default routes. Pure.

    Raises:
        FailedPrecondition: all do.
    """
    routes = [route for route in taken if route.prefixlen]
    candidates = list(candidates)
    for candidate in candidates:
        if not any(overlap(candidate, route) for route in routes):
            return candidate
    raise FailedPrecondition(
        f"each of {', '.join(map(str, candidates))} collides with a route of this node: set network.subnet"
    )


def overlap(one: Network, other: Network) -> bool:
    """Tell whether two ranges share an address. Pure."""
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.overlaps(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.overlaps(other)
    return False


def takes_part_of(route: Network, pool: Network) -> bool:
    """Tell whether a route would take packets from a pool's own; a wider one does not. Pure."""
    return route.prefixlen >= pool.prefixlen and overlap(route, pool)


def candidates(version: int, preferred: Network | None = None) -> Iterator[Network]:
    """Yield ranges to choose from: ``preferred``, then some of RFC 1918, or random ones of RFC 4193."""
    if preferred is not None:
        yield preferred
    if version == 4:
        yield from CANDIDATES
        return
    for _ in range(_TRIES):
        yield ipaddress.IPv6Network((_UNIQUE_LOCAL + os.urandom(5) + bytes(10), 64))


def choose(route: NetlinkSocket, bridge: str, version: int, preferred: Network | None = None) -> Network:
    """Return a range that collides with no route of this node but those of the bridge itself.

    Raises:
        FailedPrecondition: there is none to be had.
    """
    taken = [each.destination for each in _foreign_routes(route, bridge, version)]
    return pick(taken, candidates(version, preferred))


def check_told(route: NetlinkSocket, bridge: str, ranges: Iterable[Network]) -> None:
    """Check that no other link has a part of these ranges: its route would win, or ours would hide it.

    A wider route is no harm: a cluster may lead all its pods' ranges to a router.

    Raises:
        FailedPrecondition: one has.
    """
    for pool in ranges:
        for each in _foreign_routes(route, bridge, pool.version):
            there = each.destination
            if takes_part_of(there, pool):
                raise FailedPrecondition(
                    f"the pods' range {pool} overlaps {there}, which leads to {_name(route, each.index)}:"
                    " set network.subnet to another range, or to nothing"
                )


def uplink_mtu(route: NetlinkSocket) -> int:
    """Return the MTU of the link with the best default route, IPv4 first; 0 where there is none."""
    for version in (4, 6):
        defaults = [each for each in _routes(route, version) if each.index and not each.destination.prefixlen]
        if defaults:
            best = min(defaults, key=lambda each: each.metric)
            answers = route.request(links.encode_get_link_by_index(best.index))
            return links.parse_link(answers[0]).mtu if answers else 0
    return 0


def _foreign_routes(route: NetlinkSocket, bridge: str, version: int) -> Iterator[Route]:
    """Yield the routes of an IP version that lead to another link than the bridge."""
    (missing,) = route.try_request(links.encode_get_link(bridge))
    if missing is not None and missing.errno != errno.ENODEV:
        raise missing
    own = -1 if missing else links.parse_index(route.request(links.encode_get_link(bridge))[0])
    return (each for each in _routes(route, version) if each.index != own)


def _name(route: NetlinkSocket, index: int) -> str:
    """Return a link's name for people; routes over several links have the index 0."""
    if not index:
        return "several links"
    return repr(links.parse_link(route.request(links.encode_get_link_by_index(index))[0]).name)


def _routes(route: NetlinkSocket, version: int) -> Iterator[Route]:
    """Yield the unicast routes of an IP version, none where the kernel does not have it."""
    question = links.encode_dump_routes(version)
    parsed = map(links.parse_route, route.request(question))
    return (each for each in parsed if each is not None and each.destination.version == version)
