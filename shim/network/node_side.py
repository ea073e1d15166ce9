"""What pods share on the node: the bridge with its address, switches of the kernel, the nftables table."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterable, Iterator
from typing import Final

from shim.errors import FailedPrecondition
from shim.network import links, subnets
from shim.network.hostports import PortTable
from shim.network.leases import Lease
from shim.network.links import Link
from shim.network.netlink import NetlinkSocket
from shim.network.plugin import POD_INTERFACE
from shim.network.port_mappings import PortEntry
from shim.network.settings import BridgeSettings

NETLINK_ROUTE: Final = 0
_DEFAULT_MTU: Final = 1500
_KIND: Final = "bridge"


class NodeSide:
    """The bridge and the table, made if they are missing. Blocking; for one thread.

    Args:
        settings: the bridge's.
        pool: addresses of pods; the first is the bridge's.
        leases: what pods have already: their links are put back on the bridge, their ports into the table.

    Raises:
        FailedPrecondition: the name is another link's, or a switch cannot be set. NetlinkError.
    """

    def __init__(
        self, settings: BridgeSettings, pool: ipaddress.IPv4Network, leases: Iterable[Lease]
    ) -> None:
        self.pool = pool
        self.gateway = pool[1]
        self._name = settings.bridge
        self._route = NetlinkSocket(NETLINK_ROUTE)
        self.ports = PortTable(settings.bridge, pool, settings.masquerade)
        try:
            self.mtu = settings.mtu or subnets.uplink_mtu(self._route) or _DEFAULT_MTU
            self._index = self._make_bridge()
            leases = list(leases)
            self._take_back({lease.link for lease in leases})
            self.ports.rebuild(ports_of(leases))
            set_switch("net/ipv4/ip_forward", "1")
            # For ports of 127.0.0.1. The table keeps pods away from what listens there, so it comes before.
            set_switch(f"net/ipv4/conf/{self._name}/route_localnet", "1")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets; all else stays."""
        self._route.close()
        self.ports.close()

    def intact(self) -> bool:
        """Tell whether bridge and table are still there: others can remove them."""
        (error,) = self._route.try_request(links.encode_get_link_by_index(self._index))
        if error is not None and error.errno != errno.ENODEV:
            raise error
        return error is None and self.ports.exists()

    def connect(self, lease: Lease, netns_path: str, netlink_fd: int) -> str:
        """Make a pod's link; return the hardware address of the pod's end.

        Args:
            lease: address and name of the link.
            netns_path: the pod's network namespace.
            netlink_fd: a NETLINK_ROUTE socket that was opened in it.
        """
        address = ipaddress.IPv4Address(lease.address)
        mac = links.mac_of(address)
        netns = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._route.request(
                links.encode_veth(lease.link, self._index, self.mtu, mac, POD_INTERFACE, netns),
                links.encode_hairpin(lease.link),
            )
        finally:
            os.close(netns)
        with NetlinkSocket(NETLINK_ROUTE, netlink_fd) as inside:
            index = links.parse_index(inside.request(links.encode_get_link(POD_INTERFACE))[0])
            interface = ipaddress.IPv4Interface(f"{address}/{self.pool.prefixlen}")
            inside.request(
                links.encode_address(index, POD_INTERFACE, interface),
                links.encode_link_up(index, POD_INTERFACE),
                links.encode_default_route(index, self.gateway),
            )
        return mac

    def _make_bridge(self) -> int:
        name = self._name
        (made,) = self._route.try_request(links.encode_bridge(name, links.mac_of(self.gateway), self.mtu))
        if made is not None and made.errno != errno.EEXIST:
            raise made
        link = links.parse_link(self._route.request(links.encode_get_link(name))[0])
        if link.kind != _KIND:
            raise FailedPrecondition(
                f"link {name!r} is there and is no bridge: remove it, or set network.bridge"
            )
        interface = ipaddress.IPv4Interface(f"{self.gateway}/{self.pool.prefixlen}")
        for index, other in map(links.parse_address, self._route.request(links.encode_dump_addresses())):
            if index == link.index and other != interface:
                self._route.request(links.encode_delete_address(index, name, other))
        self._route.request(
            links.encode_address(link.index, name, interface), links.encode_link_up(link.index, name)
        )
        return link.index

    def _take_back(self, names: set[str]) -> None:
        """Put links of pods on the bridge that are not: it was removed under them, and made anew."""
        for link in dump_links(self._route):
            if link.name in names and link.master != self._index:
                self._route.request(
                    links.encode_enslave(link.name, self._index),
                    links.encode_hairpin(link.name),
                    links.encode_link_up(link.index, link.name),
                )


def ports_of(leases: Iterable[Lease]) -> Iterator[PortEntry]:
    """Return the ports that are open."""
    return (port for lease in leases if not lease.released for port in lease.ports)


def dump_links(route: NetlinkSocket) -> list[Link]:
    """Return all links of the node."""
    return [links.parse_link(data) for data in route.request(links.encode_dump_links())]


def pod_links(bridge: str) -> set[str]:
    """Return the names of the host ends of links that lead to pods of a bridge."""
    prefix = links.link_prefix(bridge)
    with NetlinkSocket(NETLINK_ROUTE) as route:
        return {
            link.name for link in dump_links(route) if link.kind == "veth" and link.name.startswith(prefix)
        }


def delete_link(name: str) -> None:
    """Remove a link with its other end; blocks for 14 to 28 ms. Idempotent.

    Raises:
        NetlinkError: the kernel refuses.
    """
    with NetlinkSocket(NETLINK_ROUTE) as route:
        (error,) = route.try_request(links.encode_delete_link(name))
    if error is not None and error.errno != errno.ENODEV:
        raise error


def remove(settings: BridgeSettings, pool: ipaddress.IPv4Network) -> None:
    """Remove table and bridge, if they are those of this pool; no socket of theirs is needed. Idempotent."""
    with NetlinkSocket(NETLINK_ROUTE) as route:
        found = [link for link in dump_links(route) if link.name == settings.bridge]
    if not found or found[0].kind != _KIND or found[0].mac != links.mac_of(pool[1]):
        return
    with PortTable(settings.bridge, pool, settings.masquerade) as table:
        table.delete()
    delete_link(settings.bridge)


def set_switch(name: str, value: str) -> None:
    """Write a sysctl unless it is so already: /proc/sys may be read-only.

    Raises:
        FailedPrecondition: it cannot be written.
    """
    path = f"/proc/sys/{name}"
    try:
        with open(path) as file:
            if file.read().strip() == value:
                return
        with open(path, "w") as file:
            file.write(value)
    except OSError as error:
        raise FailedPrecondition(f"cannot set {path} to {value}: {error.strerror}") from error
