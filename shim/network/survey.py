"""What is on this node that the built-in network would meet, for the doctor; pyroute2 asks the kernel.

The daemon's own few messages are encoded in ``attributes``: they lie on the path of every pod, and a daemon
without pyroute2 is 12 MiB smaller. A doctor may take its time, and wants all that the kernel tells.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from pyroute2 import IPRoute

from shim.errors import KernelError

_AF_INET: Final = 2
_TABLE_MAIN: Final = 254


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the node; ``kind`` is empty for a device of its own (a network card)."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Survey:
    """The node's links, and its IPv4 routes as (range, name of the link); no default routes."""

    links: tuple[Link, ...] = ()
    routes: tuple[tuple[ipaddress.IPv4Network, str], ...] = ()


NOTHING: Final = Survey()


def look() -> Survey:
    """Ask the kernel.

    Raises:
        KernelError: it does not answer.
    """
    try:
        with IPRoute() as route:
            names, links = {}, []
            for message in route.get_links():
                info = message.get("linkinfo")
                kind = info.get("kind") if info is not None else None
                names[message["index"]] = message.get("ifname")
                links.append(Link(message.get("ifname"), kind or ""))
            routes = []
            for message in route.get_routes(family=_AF_INET, table=_TABLE_MAIN):
                target = message.get("dst")
                if target:
                    network = ipaddress.IPv4Network(f"{target}/{message['dst_len']}")
                    routes.append((network, names.get(message.get("oif"), "")))
    except OSError as error:
        raise KernelError("netlink", error.errno or 0, doing="list links and routes") from error
    return Survey(tuple(links), tuple(routes))


def problems(survey: Survey, bridge: str, subnet: str) -> list[tuple[str, str]]:
    """Return what stands in the way of the built-in network, as (what is wrong, what to do). Pure.

    Args:
        survey: what is there.
        bridge: name of our bridge.
        subnet: configured range; empty: one is chosen that collides with nothing.
    """
    found = [
        (f"link {bridge!r} is no bridge but a {link.kind or 'device'}", "set network.bridge to another name")
        for link in survey.links
        if link.name == bridge and link.kind != "bridge"
    ]
    if subnet:
        ours = ipaddress.IPv4Network(subnet)
        found += [
            (
                f"network.subnet {subnet} overlaps {network}, which leads to {name!r}",
                "set network.subnet to another range, or to nothing",
            )
            for network, name in survey.routes
            if name != bridge and ours.overlaps(network)
        ]
    return found
