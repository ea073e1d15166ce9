"""Which address range the built-in network takes, and how large its packets may be."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from shim.errors import FailedPrecondition
from shim.network import links
from shim.network.netlink import NetlinkSocket

CANDIDATES: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.88.0.0/16", "10.89.0.0/16", "10.178.0.0/16", "172.28.0.0/16", "192.168.168.0/21")
)


def pick(taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """Return the first candidate that overlaps nothing of ``taken``. Pure.

    Raises:
        FailedPrecondition: all do.
    """
    routes = [route for route in taken if route.prefixlen]
    for candidate in CANDIDATES:
        if not any(candidate.overlaps(route) for route in routes):
            return candidate
    raise FailedPrecondition(
        f"each of {', '.join(map(str, CANDIDATES))} collides with a route of this node: set network.subnet"
    )


def choose(route: NetlinkSocket) -> ipaddress.IPv4Network:
    """Return a range that collides with no route of this node.

    Raises:
        FailedPrecondition: there is none to be had.
    """
    parsed = map(links.parse_route, route.request(links.encode_dump_routes()))
    return pick(each.destination for each in parsed if each is not None)


def uplink_mtu(route: NetlinkSocket) -> int:
    """Return the MTU of the link with the best default route; 0 where there is none."""
    parsed = map(links.parse_route, route.request(links.encode_dump_routes()))
    defaults = [each for each in parsed if each is not None and not each.destination.prefixlen]
    if not defaults:
        return 0
    best = min(defaults, key=lambda each: each.metric)
    answers = route.request(links.encode_get_link_by_index(best.index))
    return links.parse_link(answers[0]).mtu if answers else 0
