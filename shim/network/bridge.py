"""The built-in network: one bridge, a link into each pod, addresses from a pool, one nftables table.

    pod (eth0 10.88.0.7/16) ---- csXXX<id> --- bridge (10.88.0.1) --- node --- masquerade --- elsewhere

All requests to the kernel go over netlink sockets, in one thread; none enters a namespace: the pod's end of
the link is born inside it, and the rest goes over a socket that the pod's own first process opened there.
Removing a link makes the kernel wait for 14 to 28 ms, so a second thread does it after the sandbox has got
its answer; the address is free once the link is gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging

from shim.errors import Internal, ShimError
from shim.model.network import NetworkResult
from shim.network import links, node_side, port_mappings, subnets
from shim.network.leases import Lease, Leases
from shim.network.netlink import NetlinkError, NetlinkSocket
from shim.network.node_side import NodeSide, ports_of
from shim.network.plugin import POD_INTERFACE, NetworkCondition, SetupRequest
from shim.network.settings import BridgeSettings
from shim.network.subnets import SubnetRecord
from shim.threads import Pool

log = logging.getLogger(__name__)


class BridgeNetwork:
    """The built-in network (``plugin.Network``). The node is untouched before the first pod or status."""

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._work = Pool("bridge", 1)
        self._removal = Pool("bridge-removal", 1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._cidr = ""
        self._node: NodeSide | None = None
        self._leases = Leases(settings.directory, settings.quarantine)

    async def setup(self, request: SetupRequest) -> NetworkResult:
        """Give a sandbox an address, a link and its host ports (``plugin.Network.setup``)."""
        return await self._work.run(self._setup, request)

    async def teardown(self, sandbox_id: str, netns_path: str) -> None:
        """Close the sandbox's ports now; its link and its address go in the background. Idempotent."""
        del netns_path  # the link is found by its name, with or without the namespace
        task = asyncio.ensure_future(self._tear_down(sandbox_id))
        self._keep(task)
        await asyncio.shield(task)  # a caller that leaves in between must not leave the link behind

    async def status(self) -> NetworkCondition:
        """Tell whether bridge and table are there; what is missing is made."""
        try:
            await self._work.run(self._open)
        except (ShimError, OSError) as error:
            return NetworkCondition(ready=False, reason="BridgeUnavailable", message=str(error))
        return NetworkCondition(ready=True)

    async def reconcile(self, live: set[str]) -> None:
        """Remove leases and links of sandboxes that are not ``live``, and make the rules anew."""
        for lease in await self._work.run(self._stale, live):
            await self._remove(lease)
        await self._work.run(self._remove_strangers, live)

    async def update_pod_cidr(self, cidr: str) -> None:
        """Use this range from now on, unless the configuration names one or pods have addresses.

        Raises:
            InvalidArgument: it is no list of address ranges.
        """
        await self._work.run(self._set_cidr, subnets.first_ipv4(cidr))

    async def remove_if_unused(self) -> None:
        """Remove bridge and table when no pod has an address any more."""
        await self._settled()
        await self._work.run(self._remove_all)

    async def close(self) -> None:
        """Finish what is under way; pods keep their networks."""
        await self._settled()
        if self._node is not None:
            await self._work.run(self._node.close)
        self._work.close()
        self._removal.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settled(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _tear_down(self, sandbox_id: str) -> None:
        lease = await self._work.run(self._release, sandbox_id)
        if lease is not None:
            self._keep(asyncio.ensure_future(self._remove(lease)))

    async def _remove(self, lease: Lease) -> None:
        try:
            await self._removal.run(node_side.delete_link, lease.link)
        except NetlinkError as error:
            log.warning("link of sandbox %s stays for the next start: %s", lease.sandbox_id, error)
            return
        await self._work.run(self._leases.drop, lease.sandbox_id)

    # From here on: in the worker's thread.

    def _open(self) -> NodeSide:
        if self._node is not None and not self._node.intact():
            log.warning("bridge or table %s was removed: it is made anew", self._settings.bridge)
            self._node.close()
            self._node = None
        if self._node is None:
            self._node = NodeSide(self._settings, self._choose(), self._leases)
        return self._node

    def _choose(self) -> ipaddress.IPv4Network:
        """Return the range in force: that of pods that are there, the configured, the node's, or a free one.

        Raises:
            FailedPrecondition: none is free.
        """
        settings = self._settings
        recorded = subnets.recall(settings.directory, settings.quarantine)
        told = settings.subnet or self._cidr
        if recorded and len(self._leases):
            if told not in ("", recorded.subnet):
                log.warning("pods have addresses of %s: %s is for when they are gone", recorded.subnet, told)
            return ipaddress.IPv4Network(recorded.subnet)
        if not told and recorded and not recorded.chosen:
            told = recorded.subnet
        if told:
            record = SubnetRecord(told, chosen=False)
        else:
            before = ipaddress.IPv4Network(recorded.subnet) if recorded else None
            with NetlinkSocket(node_side.NETLINK_ROUTE) as route:
                record = SubnetRecord(str(subnets.choose(route, settings.bridge, before)), chosen=True)
        if record != recorded:
            subnets.note(settings.directory, record)
        return ipaddress.IPv4Network(record.subnet)

    def _setup(self, request: SetupRequest) -> NetworkResult:
        if request.netlink_fd is None:
            raise Internal(f"sandbox {request.sandbox_id} came without a netlink socket of its namespace")
        node = self._open()
        ports = port_mappings.plan(request.port_mappings)
        link = links.link_name(self._settings.bridge, request.sandbox_id)
        lease = self._leases.take(request.sandbox_id, link, ports, node.pool)
        try:
            port_mappings.check_free(lease.ports)
            mac = node.connect(lease, request.netns_path, request.netlink_fd)
            node.ports.add(lease.ports)
        except BaseException:
            self._undo(node, lease)
            raise
        return NetworkResult((lease.address,), POD_INTERFACE, lease.link, mac)

    def _undo(self, node: NodeSide, lease: Lease) -> None:
        try:
            node.ports.remove(lease.ports)
            node_side.delete_link(lease.link)
        except NetlinkError:
            log.exception("sandbox %s: its network is removed at the next start", lease.sandbox_id)
            self._leases.release(lease)
        else:
            self._leases.drop(lease.sandbox_id)

    def _release(self, sandbox_id: str) -> Lease | None:
        lease = self._leases.get(sandbox_id)
        if lease is None or lease.released:
            return None
        if lease.ports:
            self._open().ports.remove(lease.ports)
        self._leases.release(lease)
        return lease

    def _stale(self, live: set[str]) -> list[Lease]:
        stale = [lease for lease in self._leases if lease.released or lease.sandbox_id not in live]
        for lease in stale:
            if not lease.released:
                log.warning("address %s of sandbox %s is free again", lease.address, lease.sandbox_id)
                self._leases.release(lease)
        return stale

    def _remove_strangers(self, live: set[str]) -> None:
        """Remove links of ours that are nobody's, and make the table from the leases that there are.

        The link of a live sandbox stays without a lease: one that could not be read must not cost a network.
        """
        known = {lease.link for lease in self._leases}
        known |= {links.link_name(self._settings.bridge, sandbox_id) for sandbox_id in live}
        for name in node_side.pod_links(self._settings.bridge) - known:
            log.warning("link %s, which belongs to no sandbox, is removed", name)
            node_side.delete_link(name)
        if len(self._leases):
            self._open().ports.rebuild(ports_of(self._leases))
        else:
            self._remove_all()

    def _set_cidr(self, cidr: str) -> None:
        changed = cidr not in ("", self._cidr)
        self._cidr = cidr
        if changed and not self._settings.subnet and not len(self._leases):
            self._remove_all()
            subnets.note(self._settings.directory, SubnetRecord(cidr, chosen=False))

    def _remove_all(self) -> None:
        if len(self._leases) or node_side.pod_links(self._settings.bridge):
            return
        if self._node is not None:
            self._node.close()
            self._node = None
        recorded = subnets.recall(self._settings.directory, self._settings.quarantine)
        if recorded is not None:
            node_side.remove(self._settings, ipaddress.IPv4Network(recorded.subnet))
