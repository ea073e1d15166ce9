"""The built-in network: one bridge, a link into each pod, addresses from a pool, one nftables table.

    pod (eth0 10.88.0.7/16) ---- csXXX<id> --- bridge (10.88.0.1) --- node --- masquerade --- elsewhere

All requests to the kernel go over netlink sockets, in one thread; none enters a namespace: the pod's end of
the link is born inside it, and the rest goes over a socket that the pod's own first process opened there.
Removing a link makes the kernel wait for 14 to 28 ms, so a second thread does it after the sandbox has got
its answer; the address is free once the link is gone.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
from typing import Final

from shim.errors import FailedPrecondition, Internal, InvalidArgument, ShimError
from shim.kernel import files
from shim.model.network import NetworkResult, PortMapping
from shim.network import hostports, links, subnets
from shim.network.hostports import PortEntry, PortTable
from shim.network.leases import Lease, Leases
from shim.network.netlink import NetlinkError, NetlinkSocket
from shim.network.plugin import POD_INTERFACE, NetworkCondition, SetupRequest
from shim.network.settings import BridgeSettings
from shim.threads import Pool

log = logging.getLogger(__name__)

_ROUTE: Final = 0  # NETLINK_ROUTE
_SUBNET_FILE: Final = "subnet"
_DEFAULT_MTU: Final = 1500
_PROTOCOLS: Final = ("TCP", "UDP")


class _Kernel:
    """What is there once the first pod has come: the bridge and the table. Used in one thread."""

    def __init__(self, settings: BridgeSettings, pool: ipaddress.IPv4Network) -> None:
        self.pool = pool
        self.gateway = pool[1]
        self.route = NetlinkSocket(_ROUTE)
        self.mtu = settings.mtu or subnets.uplink_mtu(self.route) or _DEFAULT_MTU
        self.index = self._make_bridge(settings.bridge)
        self.ports = PortTable(settings.bridge, settings.bridge, pool, settings.masquerade)

    def _make_bridge(self, name: str) -> int:
        mac = links.mac_of(self.gateway)
        (made,) = self.route.try_request(links.encode_bridge(name, mac, self.mtu))
        if made is not None and made.errno != errno.EEXIST:
            raise made
        link = links.parse_link(self.route.request(links.encode_get_link(name))[0])
        if link.kind != "bridge":
            raise FailedPrecondition(
                f"link {name!r} is there and is no bridge: remove it, or set network.bridge"
            )
        interface = ipaddress.IPv4Interface(f"{self.gateway}/{self.pool.prefixlen}")
        for index, other in map(links.parse_address, self.route.request(links.encode_dump_addresses())):
            if index == link.index and other != interface:
                self.route.request(links.encode_delete_address(index, name, other))
        self.route.request(
            links.encode_address(link.index, name, interface), links.encode_link_up(link.index, name)
        )
        _set_sysctl("net/ipv4/ip_forward", "1")
        # A port of the node's 127.0.0.1 leads to a pod: such packets may leave by this bridge only.
        _set_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
        return link.index

    def close(self) -> None:
        self.route.close()


class BridgeNetwork:
    """The built-in network (``plugin.Network``). It touches nothing before the first pod comes."""

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._work = Pool("bridge", 1)
        self._removal = Pool("bridge-removal", 1)
        self._removing: set[asyncio.Task[None]] = set()
        self._cidr = ""
        self._kernel: _Kernel | None = None
        self._leases = Leases(settings.directory, settings.quarantine)

    async def setup(self, request: SetupRequest) -> NetworkResult:
        """Give a sandbox an address, a link and its host ports (``plugin.Network.setup``)."""
        return await self._work.run(self._setup, request)

    async def teardown(self, sandbox_id: str, netns_path: str) -> None:
        """Close the sandbox's ports now; its link and its address go in the background. Idempotent."""
        del netns_path  # the link is found by its name, with or without the namespace
        lease = await self._work.run(self._release, sandbox_id)
        if lease is not None:
            task = asyncio.ensure_future(self._remove(lease))
            self._removing.add(task)
            task.add_done_callback(self._removing.discard)

    async def status(self) -> NetworkCondition:
        """Tell whether the bridge is there, or can be made."""
        try:
            await self._work.run(self._open)
        except (ShimError, OSError) as error:
            return NetworkCondition(ready=False, reason="BridgeUnavailable", message=str(error))
        return NetworkCondition(ready=True)

    async def reconcile(self, live: set[str]) -> None:
        """Remove leases and links of sandboxes that are not ``live``, and make the rules anew."""
        for lease in await self._work.run(self._stale, live):
            await self._remove(lease)
        await self._work.run(self._remove_strangers)

    async def update_pod_cidr(self, cidr: str) -> None:
        """Use this range from now on, unless the configuration names one or pods have addresses.

        Raises:
            InvalidArgument: it is no list of address ranges.
        """
        chosen = _first_ipv4(cidr)
        await self._work.run(self._set_cidr, chosen)

    async def remove_if_unused(self) -> None:
        """Remove bridge and table when no pod has an address any more."""
        await self._settled()
        await self._work.run(self._remove_all)

    async def close(self) -> None:
        """Finish what is under way; pods keep their networks."""
        await self._settled()
        if self._kernel is not None:
            self._kernel.close()
        self._work.close()
        self._removal.close()

    async def _settled(self) -> None:
        if self._removing:
            await asyncio.wait(self._removing)

    async def _remove(self, lease: Lease) -> None:
        try:
            await self._removal.run(_delete_link, lease.link)
        except NetlinkError as error:
            log.warning("link of sandbox %s stays for the next start: %s", lease.sandbox_id, error)
            return
        await self._work.run(self._leases.drop, lease.sandbox_id)

    # From here on: in the worker's thread.

    def _open(self) -> _Kernel:
        if self._kernel is None:
            self._kernel = _Kernel(self._settings, self._choose())
            self._kernel.ports.rebuild(p for lease in self._leases if not lease.released for p in lease.ports)
        return self._kernel

    def _choose(self) -> ipaddress.IPv4Network:
        """Return the range in force: the configured, the recorded, the node's, or one that collides not."""
        if self._settings.subnet:
            return ipaddress.IPv4Network(self._settings.subnet)
        path = os.path.join(self._settings.directory, _SUBNET_FILE)
        try:
            with open(path) as file:
                return ipaddress.IPv4Network(file.read().strip())
        except (FileNotFoundError, ValueError):
            pass
        with NetlinkSocket(_ROUTE) as route:
            chosen = ipaddress.IPv4Network(self._cidr) if self._cidr else subnets.choose(route)
        files.write_atomic(path, f"{chosen}\n".encode())
        return chosen

    def _setup(self, request: SetupRequest) -> NetworkResult:
        if request.netlink_fd is None:
            raise Internal(f"sandbox {request.sandbox_id} came without a netlink socket of its namespace")
        kernel = self._open()
        ports = plan_ports(request.port_mappings)
        lease = self._leases.take(
            request.sandbox_id, links.link_name(self._settings.bridge, request.sandbox_id), ports, kernel.pool
        )
        try:
            hostports.check_free(lease.ports)
            self._connect(kernel, lease, request.netns_path, request.netlink_fd)
            if lease.ports:
                kernel.ports.add(lease.ports)
        except BaseException:
            self._undo(kernel, lease)
            raise
        return NetworkResult(ips=(lease.address,))

    def _connect(self, kernel: _Kernel, lease: Lease, netns_path: str, netlink_fd: int) -> None:
        address = ipaddress.IPv4Address(lease.address)
        netns = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.route.request(
                links.encode_veth(
                    lease.link, kernel.index, kernel.mtu, links.mac_of(address), POD_INTERFACE, netns
                )
            )
        finally:
            os.close(netns)
        with NetlinkSocket(_ROUTE, netlink_fd) as inside:
            index = links.parse_index(inside.request(links.encode_get_link(POD_INTERFACE))[0])
            interface = ipaddress.IPv4Interface(f"{address}/{kernel.pool.prefixlen}")
            inside.request(
                links.encode_address(index, POD_INTERFACE, interface),
                links.encode_link_up(index, POD_INTERFACE),
                links.encode_default_route(index, kernel.gateway),
            )

    def _undo(self, kernel: _Kernel, lease: Lease) -> None:
        try:
            kernel.ports.remove(lease.ports)
            _delete_link(lease.link)
        except NetlinkError:
            log.exception("sandbox %s: its network is removed at the next start", lease.sandbox_id)
            self._leases.release(lease)
        else:
            self._leases.drop(lease.sandbox_id)

    def _release(self, sandbox_id: str) -> Lease | None:
        lease = self._leases.get(sandbox_id)
        if lease is None or lease.released:
            return None
        self._leases.release(lease)
        if lease.ports:
            self._open().ports.remove(lease.ports)
        return lease

    def _stale(self, live: set[str]) -> list[Lease]:
        stale = [lease for lease in self._leases if lease.released or lease.sandbox_id not in live]
        for lease in stale:
            if not lease.released:
                log.warning("address %s of sandbox %s is free again", lease.address, lease.sandbox_id)
                self._leases.release(lease)
        return stale

    def _remove_strangers(self) -> None:
        """Remove links of ours that no lease names, and make the table from the leases that there are."""
        known = {lease.link for lease in self._leases}
        prefix = links.link_prefix(self._settings.bridge)
        with NetlinkSocket(_ROUTE) as route:
            found = [links.parse_link(data) for data in route.request(links.encode_dump_links())]
        for link in found:
            if link.kind == "veth" and link.name.startswith(prefix) and link.name not in known:
                log.warning("link %s, which belongs to no sandbox, is removed", link.name)
                _delete_link(link.name)
        if len(self._leases):
            kernel = self._open()
            kernel.ports.rebuild(p for lease in self._leases if not lease.released for p in lease.ports)

    def _set_cidr(self, cidr: str) -> None:
        self._cidr = cidr
        recorded = os.path.join(self._settings.directory, _SUBNET_FILE)
        if not cidr or self._settings.subnet or len(self._leases):
            return
        self._remove_all()
        files.write_atomic(recorded, f"{cidr}\n".encode())

    def _remove_all(self) -> None:
        if len(self._leases):
            return
        if self._kernel is not None:
            self._kernel.ports.delete()
            self._kernel.close()
            self._kernel = None
            _delete_link(self._settings.bridge)


def plan_ports(mappings: tuple[PortMapping, ...]) -> tuple[PortEntry, ...]:
    """Return what leads from outside to a pod whose address is not known yet. Pure.

    Raises:
        InvalidArgument: a mapping clashes with another of this pod, or its protocol is not supported.
    """
    entries: list[PortEntry] = []
    for mapping in mappings:
        if not mapping.host_port:
            continue
        protocol = mapping.protocol.name
        if protocol not in _PROTOCOLS:
            raise InvalidArgument(f"host port {mapping.host_port}: protocol {protocol} is not supported")
        host_ip = "" if mapping.host_ip in ("", "0.0.0.0", "::") else mapping.host_ip  # noqa: S104
        entry = PortEntry(protocol, host_ip, mapping.host_port, "", mapping.container_port)
        if any((e.protocol, e.host_ip, e.host_port) == (protocol, host_ip, entry.host_port) for e in entries):
            raise InvalidArgument(f"host port {mapping.host_port}/{protocol} is named twice")
        entries.append(entry)
    return tuple(entries)


def _first_ipv4(cidr: str) -> str:
    for text in filter(None, (part.strip() for part in cidr.split(","))):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidArgument(f"pod_cidr {cidr!r} is no address range: {error}") from None
        if network.version == 4:
            return str(network)
    return ""


def _delete_link(name: str) -> None:
    with NetlinkSocket(_ROUTE) as route:
        (error,) = route.try_request(links.encode_delete_link(name))
    if error is not None and error.errno != errno.ENODEV:
        raise error


def _set_sysctl(name: str, value: str) -> None:
    path = f"/proc/sys/{name}"
    with open(path) as file:
        if file.read().strip() == value:
            return
    try:
        with open(path, "w") as file:
            file.write(value)
    except OSError as error:
        raise FailedPrecondition(f"cannot set {path} to {value}: {error.strerror}") from error
