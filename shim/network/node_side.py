"""What pods share on the node: the bridge with its addresses, switches of the kernel, the nftables tables."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterable, Iterator
from typing import Final

from shim.errors import FailedPrecondition, Internal
from shim.network import ipv6, links, port_tables, subnets, switches
from shim.network.hostports import PortTable
from shim.network.leases import Lease
from shim.network.links import Interface, Link
from shim.network.netlink import Message, NetlinkError, NetlinkSocket
from shim.network.plugin import POD_INTERFACE
from shim.network.pools import Pools
from shim.network.port_mappings import PortEntry
from shim.network.settings import BridgeSettings

NETLINK_ROUTE: Final = 0
_DEFAULT_MTU: Final = 1500
_KIND: Final = "bridge"


class NodeSide:
    """The bridge and the tables, made if they are missing. Blocking; for one thread.

    Args:
        settings: the bridge's.
        pools: addresses of pods; of each the first is the bridge's.
        mtu: of the bridge and of pods' links.
        leases: what pods have already: their links are put back on the bridge, their ports into the tables.

    Attributes:
        pools: those that are left: without IPv6 where nftables cannot translate it.
        lack: why something is missing, or an empty text.

    Raises:
        FailedPrecondition: the name is another link's, or a switch cannot be set. NetlinkError. Nothing
            that was made for it is left then.
    """

    def __init__(self, settings: BridgeSettings, pools: Pools, mtu: int, leases: Iterable[Lease]) -> None:
        self.pools = pools
        self.mtu = mtu
        self.lack = ""
        self._settings = settings
        self._name = settings.bridge
        self._has_ipv6 = ipv6.in_kernel() and mtu >= ipv6.MIN_MTU
        self._isolates_ports = settings.isolated and not bridged_is_seen()
        self._made = False
        self._ports: port_tables.Ports | None = None
        self._route = NetlinkSocket(NETLINK_ROUTE)
        try:
            self._make(list(leases))
        except BaseException:
            self.close()
            if self._made:
                remove(settings, pools)
            raise

    def _make(self, leases: list[Lease]) -> None:
        self._index = self._make_bridge()
        self._take_back({lease.link for lease in leases})
        self._ports, self.pools, self.lack = port_tables.open_tables(
            self._settings, self.pools, ports_of(leases)
        )
        if self.pools.v4 is not None:
            switches.set_switch("net/ipv4/ip_forward", "1")
        if self.pools.v4 is not None and isinstance(self._ports, PortTable):
            # For ports of 127.0.0.1. The table keeps pods away from what listens there, so it comes before.
            switches.set_switch(f"net/ipv4/conf/{self._name}/route_localnet", "1")

    @property
    def ports(self) -> port_tables.Ports:
        """What opens host ports."""
        if self._ports is None:
            raise Internal("the tables of host ports are used before they are made")
        return self._ports

    def close(self) -> None:
        """Close the sockets; all else stays."""
        self._route.close()
        if self._ports is not None:
            self._ports.close()

    def intact(self) -> bool:
        """Tell whether bridge and tables are there, and do what they should: others can change them."""
        if self._settings.isolated and self._isolates_ports is bridged_is_seen():
            return False
        (error,) = self._route.try_request(links.encode_get_link_by_index(self._index))
        if error is not None and error.errno != errno.ENODEV:
            raise error
        return error is None and self.ports.exists()

    def connect(self, lease: Lease, netns_path: str, netlink_fd: int) -> tuple[str, bool]:
        """Make a pod's link.

        Args:
            lease: addresses and name of the link.
            netns_path: the pod's network namespace.
            netlink_fd: a NETLINK_ROUTE socket that was opened in it.

        Returns:
            (hardware address of the pod's end, whether it has all addresses: a pod whose sysctls turn IPv6
            off gets none of IPv6).
        """
        mac = links.mac_of(ipaddress.ip_address(lease.addresses[0]))
        netns = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._route.request(
                links.encode_veth(lease.link, self._index, self.mtu, mac, POD_INTERFACE, netns),
                *self._port_up(lease.link),
            )
        finally:
            os.close(netns)
        with NetlinkSocket(NETLINK_ROUTE, netlink_fd) as inside:
            index = links.parse_index(inside.request(links.encode_get_link(POD_INTERFACE))[0])
            first = [links.encode_link_up(index, POD_INTERFACE), *self._inside(lease.address, index, 4)]
            results = inside.try_request(*first, *self._inside(lease.address6, index, 6))
        for number, error in enumerate(results):
            if error is not None and number >= len(first) and error.errno == errno.EACCES:
                self._settle(lease.link)
                return mac, False
            if error is not None:
                raise error
        self._settle(lease.link)
        return mac, True

    def _settle(self, link: str) -> None:
        """Have the kernel notice at once that link and bridge have a carrier: no first packet is lost.

        It notices some milliseconds later by itself, and until then drops what comes for the pod; whoever
        sent an ARP request then waits for a second. Since Linux 6.8 it looks when it is asked for the link.
        """
        self._route.try_request(links.encode_get_link(link), links.encode_get_link(self._name))

    def _inside(self, address: str, index: int, version: int) -> tuple[Message, ...]:
        """Return what gives the pod's end its address and its way out, of one version of IP."""
        pool = self.pools.get(version)
        if pool is None:
            return ()
        interface = ipaddress.ip_interface(f"{address}/{pool.prefixlen}")
        return (
            links.encode_address(index, POD_INTERFACE, interface),
            links.encode_default_route(index, pool[1]),
        )

    def _port_up(self, link: str) -> tuple[Message, ...]:
        """Return what makes a link on the bridge ready."""
        up = links.encode_port_up(link, isolated=self._isolates_ports)
        return (links.encode_no_ipv6_address(link), up) if self._has_ipv6 else (up,)

    def _make_bridge(self) -> int:
        name = self._name
        mac = links.mac_of(next(iter(self.pools))[1])
        (made,) = self._route.try_request(links.encode_bridge(name, mac, self.mtu))
        if made is not None and made.errno != errno.EEXIST:
            raise made
        self._made = made is None
        link = links.parse_link(self._route.request(links.encode_get_link(name))[0])
        if link.kind != _KIND:
            raise FailedPrecondition(
                f"link {name!r} is there and is no bridge but a {link.kind or 'device'}: remove it, or set"
                " network.bridge to another name"
            )
        if self._has_ipv6:
            ipv6.close_to_routers(name)
            self._route.request(links.encode_no_ipv6_address(name))
        wanted: set[Interface] = {
            ipaddress.ip_interface(f"{pool[1]}/{pool.prefixlen}") for pool in self.pools
        }
        if self.pools.v6 is not None:
            wanted.add(links.link_local(mac))  # with which the node asks for pods' hardware addresses
        self._route.request(links.encode_link_up(link.index, name))
        for version in (4, 6):
            for index, other in map(
                links.parse_address, self._route.request(links.encode_dump_addresses(version))
            ):
                if index == link.index and other not in wanted:
                    self._route.request(links.encode_delete_address(index, name, other))
        self._route.request(*(links.encode_address(link.index, name, each) for each in wanted))
        return link.index

    def _take_back(self, names: set[str]) -> None:
        """Put links of pods on the bridge that are not, since it was made anew; have all do as configured."""
        for link in dump_links(self._route):
            if link.name in names:
                if link.master != self._index:
                    self._route.request(links.encode_enslave(link.name, self._index))
                for error in self._route.try_request(*self._port_up(link.name)):
                    if error is not None and error.errno != errno.ENODEV:  # it went with its pod
                        raise error


def bridged_is_seen() -> bool:
    """Tell whether netfilter sees what a bridge passes from port to port (br_netfilter).

    Then the rule that isolates pods meets it there. Else the bridge must not pass it at all, which where
    netfilter sees it would also hold up what a port of the node leads from pod to pod.
    """
    names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
    return all(switches.get(f"net/bridge/{name}") == "1" for name in names)


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


def link_mtu(settings: BridgeSettings, route: NetlinkSocket) -> int:
    """Return how large packets on pods' links are: as configured, or as the uplink's."""
    return settings.mtu or subnets.uplink_mtu(route) or _DEFAULT_MTU


def remove(settings: BridgeSettings, pools: Pools) -> None:
    """Remove tables and bridge, if they are those of these ranges; it needs no open socket. Idempotent."""
    with NetlinkSocket(NETLINK_ROUTE) as route:
        found = [link for link in dump_links(route) if link.name == settings.bridge]
    ours = {links.mac_of(pool[1]) for pool in pools}
    if not found or found[0].kind != _KIND or found[0].mac not in ours:
        return
    try:
        with PortTable(settings.bridge, pools) as table:
            table.delete()
    except NetlinkError as error:
        if error.errno != errno.EPROTONOSUPPORT:  # no nftables, no table
            raise
    delete_link(settings.bridge)
