"""The built-in network: one bridge, a link into each pod, addresses from pools, one nftables table.

    pod (eth0 10.88.0.7/16) ---- csXXX<id> --- bridge (10.88.0.1) --- node --- masquerade --- elsewhere
        (fd12:3456:789a::7/64)                 (fd12:3456:789a::1)

All requests to the kernel go over netlink sockets, in one thread; none enters a namespace: the pod's end of
the link is born inside it, and the rest goes over a socket that the pod's own first process opened there.
Removing a link makes the kernel wait for 14 to 28 ms, so a second thread does it after the sandbox has got
its answer; the address is free once the link is gone. A removal that fails is tried again, with growing
pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from shim.errors import FailedPrecondition, Internal, ResourceExhausted, ShimError
from shim.model.network import NetworkResult
from shim.network import conntrack, forwarding, ipv6, links, node_side, pools, port_mappings, subnets
from shim.network.leases import Lease, Leases
from shim.network.netlink import NetlinkError, NetlinkSocket
from shim.network.node_side import NodeSide, ports_of
from shim.network.plugin import POD_INTERFACE, NetworkCondition, SetupRequest
from shim.network.pools import Pools
from shim.network.settings import BridgeSettings
from shim.network.subnets import SubnetRecord
from shim.threads import Pool

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0


class BridgeNetwork:
    """The built-in network (``plugin.Network``). The node is untouched before the first pod or status."""

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._work = Pool("bridge", 1)
        self._removal = Pool("bridge-removal", 1)
        self._flows = Pool("bridge-flows", 1)
        self._tasks: set[asyncio.Task[None]] = set()  # those that end soon
        self._retries: set[asyncio.Task[None]] = set()
        self._cidr = ""
        self._node: NodeSide | None = None
        self._lack = ""  # why pods get less than both versions of IP with ports; told once
        self._dropped: tuple[str, ...] = ()  # what of other programs keeps packets from being forwarded
        self._leases = Leases(settings.directory, settings.quarantine)

    async def setup(self, request: SetupRequest) -> NetworkResult:
        """Give a sandbox addresses, a link and its host ports (``plugin.Network.setup``)."""
        try:
            lease, mac = await self._work.run(self._setup, request)
        except ResourceExhausted:
            if not self._tasks:
                raise
            await self._settled()  # addresses are on their way back
            lease, mac = await self._work.run(self._setup, request)
        if lease.ports:
            forgetting = self._flows.run(conntrack.forget_unled, lease.ports)
            self._keep(self._tasks, asyncio.ensure_future(forgetting))
        return NetworkResult(lease.addresses, POD_INTERFACE, lease.link, mac)

    async def teardown(self, sandbox_id: str, netns_path: str) -> None:
        """Close the sandbox's ports now; its link and its address go in the background. Idempotent."""
        del netns_path  # the link is found by its name, with or without the namespace
        task = asyncio.ensure_future(self._tear_down(sandbox_id))
        self._keep(self._tasks, task)
        await asyncio.shield(task)  # a caller that leaves in between must not leave the link behind

    async def status(self) -> NetworkCondition:
        """Tell whether bridge and table are there; what is missing is made."""
        try:
            await self._work.run(self._open)
        except (ShimError, OSError) as error:
            return NetworkCondition(ready=False, reason="BridgeUnavailable", message=str(error))
        return NetworkCondition(ready=True, notes=await self._work.run(self._notes))

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
        await self._work.run(self._set_cidr, pools.parse("pod_cidr", cidr))

    async def remove_if_unused(self) -> None:
        """Remove bridge and table when no pod has an address any more."""
        await self._settled()
        await self._work.run(self._remove_all)

    async def close(self) -> None:
        """Finish what is under way; pods keep their networks, and what kept failing is left on record."""
        for task in self._retries:
            task.cancel()
        await asyncio.gather(*self._retries, return_exceptions=True)
        await self._settled()
        if self._node is not None:
            await self._work.run(self._node.close)
        for pool in (self._work, self._removal, self._flows):
            pool.close()

    def _keep(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _settled(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _tear_down(self, sandbox_id: str) -> None:
        lease = await self._work.run(self._release, sandbox_id)
        if lease is not None:
            self._keep(self._tasks, asyncio.ensure_future(self._remove(lease)))

    async def _remove(self, lease: Lease) -> None:
        if lease.ports:
            await self._flows.run(conntrack.forget_led, lease.ports)
        if not await self._try_to_remove(lease):
            self._keep(self._retries, asyncio.ensure_future(self._remove_later(lease)))

    async def _remove_later(self, lease: Lease) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            if await self._try_to_remove(lease):
                return
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _try_to_remove(self, lease: Lease) -> bool:
        """Remove a link, and free its addresses; return whether that worked."""
        try:
            await self._removal.run(node_side.delete_link, lease.link)
        except NetlinkError as error:
            log.warning("link of sandbox %s is removed later: %s", lease.sandbox_id, error)
            await self._work.run(self._leases.release, lease, str(error))
            return False
        await self._work.run(self._leases.drop, lease.sandbox_id)
        return True

    # From here on: in the worker's thread.

    def _open(self) -> NodeSide:
        if self._node is not None and not self._node.intact():
            log.warning("bridge or table %s was removed: it is made anew", self._settings.bridge)
            self._node.close()
            self._node = None
        if self._node is None:
            with NetlinkSocket(node_side.NETLINK_ROUTE) as route:
                mtu = node_side.link_mtu(self._settings, route)
                chosen, lack = self._choose(route, mtu)
            self._node = NodeSide(self._settings, chosen, mtu, self._leases)
            lack = lack or self._node.lack
            if lack and lack != self._lack:
                log.warning("%s", lack)
            self._lack = lack
            self._look_for_droppers()
            for wrong in self._dropped:
                log.warning("%s", wrong)
        return self._node

    def _choose(self, route: NetlinkSocket, mtu: int) -> tuple[Pools, str]:
        """Return the ranges in force, and why IPv6 is missing from them, or an empty text.

        They are those of pods that are there, the configured, the node's, or free ones.

        Raises:
            FailedPrecondition: none is free, another link has one, or the kernel lacks what is named.
        """
        settings = self._settings
        recorded = subnets.recall(settings.directory, settings.quarantine)
        told, in_use = self._told(recorded), self._leases.versions_in_use()
        settled, open_ = subnets.plan(told, recorded.pools if recorded else Pools(), in_use)
        lack = ""
        if 6 in settled or 6 in open_:
            lack = self._prepare_ipv6(mtu)
        told_now = [pool for version, pool in settled.items() if version not in in_use]
        subnets.check_told(route, settings.bridge, told_now)
        for version, preferred in open_.items():
            if version == 4 or not lack:
                settled[version] = subnets.choose(route, settings.bridge, version, preferred)
            elif preferred is not None:
                settled[version] = preferred
        found = pools.of(settled)
        record = SubnetRecord(str(found.v4 or ""), chosen=told is None, subnet6=str(found.v6 or ""))
        if record != recorded:
            subnets.note(settings.directory, record)
        if lack and found.v4 is None:
            raise FailedPrecondition(f"pods are to have IPv6 addresses alone, from {found}, but {lack}")
        return (Pools(found.v4) if lack else found), lack

    def _told(self, recorded: SubnetRecord | None) -> Pools | None:
        """Return the ranges that were named from outside, now or before; None if they are chosen here."""
        if self._settings.subnet:
            return pools.parse("network.subnet", self._settings.subnet)
        if self._cidr:
            return pools.parse("pod_cidr", self._cidr)
        return recorded.pools if recorded is not None and not recorded.chosen else None

    def _prepare_ipv6(self, mtu: int) -> str:
        """Have the kernel forward IPv6; return why pods cannot have it, or an empty text."""
        lack = ipv6.find_lack(mtu)
        if not lack:
            try:
                ipv6.forward()
            except FailedPrecondition as error:
                lack = str(error)
        return lack and f"pods get no IPv6: {lack}"

    def _look_for_droppers(self) -> None:
        with contextlib.suppress(NetlinkError):  # of a kernel without nftables
            chains = forwarding.find(self._settings.bridge)
            told = (forwarding.describe(chain, self._settings.bridge) for chain in chains)
            self._dropped = tuple(f"{wrong}: {remedy}" for wrong, remedy in told)

    def _notes(self) -> tuple[str, ...]:
        """Return what a person should know, though pods can be run."""
        if self._dropped:
            self._look_for_droppers()  # a node with many rules is not looked through while nothing is wrong
        notes = [*filter(None, [self._lack]), *self._dropped]
        notes += [
            f"link {lease.link} of sandbox {lease.sandbox_id} cannot be removed yet: {lease.failure};"
            f" {' and '.join(lease.addresses)} stays taken"
            for lease in self._leases
            if lease.failure
        ]
        return tuple(notes)

    def _setup(self, request: SetupRequest) -> tuple[Lease, str]:
        """Return (what the sandbox has, the hardware address of its end)."""
        if request.netlink_fd is None:
            raise Internal(f"sandbox {request.sandbox_id} came without a netlink socket of its namespace")
        node = self._open()
        ports = port_mappings.plan(request.port_mappings, node.pools.versions)
        link = links.link_name(self._settings.bridge, request.sandbox_id)
        lease = self._leases.take(request.sandbox_id, link, ports, node.pools)
        try:
            port_mappings.check_free(lease.ports)
            mac, complete = node.connect(lease, request.netns_path, request.netlink_fd)
            if not complete:
                log.warning("sandbox %s gets no IPv6 address: its sysctls refuse it", request.sandbox_id)
                lease = self._leases.without_ipv6(lease)
            node.ports.add(lease.ports)
        except BaseException:
            self._undo(node, lease)
            raise
        return lease, mac

    def _undo(self, node: NodeSide, lease: Lease) -> None:
        try:
            node.ports.remove(lease.ports)
            node_side.delete_link(lease.link)
        except NetlinkError as error:
            log.exception("sandbox %s: its network is removed at the next start", lease.sandbox_id)
            self._leases.release(lease, str(error))
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
                log.warning("%s of sandbox %s is free again", " and ".join(lease.addresses), lease.sandbox_id)
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

    def _set_cidr(self, ranges: Pools) -> None:
        changed = str(ranges) not in ("", self._cidr)
        self._cidr = str(ranges)
        if not changed or self._settings.subnet:
            return
        if len(self._leases):
            recorded = subnets.recall(self._settings.directory, self._settings.quarantine)
            if recorded is not None and recorded.pools != ranges:
                log.warning("pods have addresses of %s: %s is for when they are gone", recorded.pools, ranges)
            return
        self._remove_all()
        record = SubnetRecord(str(ranges.v4 or ""), chosen=False, subnet6=str(ranges.v6 or ""))
        subnets.note(self._settings.directory, record)

    def _remove_all(self) -> None:
        if len(self._leases) or node_side.pod_links(self._settings.bridge):
            return
        if self._node is not None:
            self._node.close()
            self._node = None
        recorded = subnets.recall(self._settings.directory, self._settings.quarantine)
        if recorded is not None:
            node_side.remove(self._settings, recorded.pools)
