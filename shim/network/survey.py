"""What is on this node that the built-in network would meet, for the doctor; pyroute2 asks the kernel.

The daemon's own few messages are encoded in ``attributes``: they lie on the path of every pod, and a daemon
without pyroute2 is 12 MiB smaller. A doctor may take its time, and wants all that the kernel tells.
"""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from typing import Final

from pyroute2 import IPRoute

from shim.errors import KernelError
from shim.network import forwarding, pools
from shim.network.forwarding import Chain
from shim.network.links import Network
from shim.network.netlink import NetlinkError
from shim.network.settings import DEFAULT_BRIDGE
from shim.network.subnets import takes_part_of

_FAMILIES: Final = {4: 2, 6: 10}  # AF_* by IP version
_TABLE_MAIN: Final = 254


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the node; ``kind`` is empty for a device of its own (a network card)."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What is there.

    Attributes:
        links: of the node.
        routes: as (range, name of the link); no default routes.
        droppers: chains of other programs that forward only what they know.
        legacy: programs whose older rules do.
    """

    links: tuple[Link, ...] = ()
    routes: tuple[tuple[Network, str], ...] = ()
    droppers: tuple[Chain, ...] = ()
    legacy: tuple[str, ...] = ()


NOTHING: Final = Survey()


def look(bridge: str = DEFAULT_BRIDGE) -> Survey:
    """Ask the kernel.

    Args:
        bridge: name of ours, which rules may let pass.

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
            for family in _FAMILIES.values():
                for message in route.get_routes(family=family, table=_TABLE_MAIN):
                    target = message.get("dst")
                    if target:
                        network = ipaddress.ip_network(f"{target}/{message['dst_len']}")
                        routes.append((network, names.get(message.get("oif"), "")))
    except OSError as error:
        raise KernelError("netlink", error.errno or 0, doing="list links and routes") from error
    droppers: list[Chain] = []
    with contextlib.suppress(NetlinkError):  # of a kernel without nftables
        droppers = forwarding.find(bridge)
    return Survey(tuple(links), tuple(routes), tuple(droppers), tuple(forwarding.find_legacy(bridge)))


def problems(survey: Survey, bridge: str, subnet: str) -> list[tuple[str, str]]:
    """Return what stands in the way of the built-in network, as (what is wrong, what to do). Pure.

    Args:
        survey: what is there.
        bridge: name of our bridge.
        subnet: configured ranges; empty: some are chosen that collide with nothing.
    """
    found = [
        (f"link {bridge!r} is no bridge but a {link.kind or 'device'}", "set network.bridge to another name")
        for link in survey.links
        if link.name == bridge and link.kind != "bridge"
    ]
    found += [
        (
            f"network.subnet {ours} overlaps {network}, which leads to {name!r}",
            "set network.subnet to another range, or to nothing",
        )
        for ours in pools.parse("network.subnet", subnet)
        for network, name in survey.routes
        if name != bridge and takes_part_of(network, ours)
    ]
    found += [forwarding.describe(chain, bridge) for chain in survey.droppers]
    return found + [forwarding.describe_legacy(program, bridge) for program in survey.legacy]
