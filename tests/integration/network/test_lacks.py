"""Nodes on which something is in the way or missing: one sentence, nothing left, and the rest works."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from shim.model.network import PortMapping, Protocol
from shim.network import bridge, links, nft, node_side, switches
from shim.network.netlink import NetlinkSocket

pytestmark = pytest.mark.root

OnNode = Callable[[Callable[[Any], Awaitable[Any]]], Any]
WEB = PortMapping(Protocol.TCP, 80, 8080)
CONF6 = "net/ipv6/conf"


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        logging.getLogger("shim.network").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.parametrize("which", ["all", "default"])
def test_ipv6_that_is_off_is_told_once_and_costs_nothing_else(on_node: OnNode, which: str) -> None:
    async def body(world: Any) -> None:
        switches.set_switch(f"{CONF6}/{which}/disable_ipv6", "1")
        lines = Lines()
        pod = await world.pod(1, WEB)
        await world.pod(2)
        assert world.results[world.sandbox(1)].ips == ("10.88.0.2",)
        assert world.call(pod.listen(80), world.connect("127.0.0.1", 8080)) == "10.88.0.1"
        why = f"pods get no IPv6: IPv6 is off on this node: net.ipv6.conf.{which}.disable_ipv6 is 1"
        assert lines.lines == [why]
        assert (await world.network.status()).notes == (why,)
        with pytest.raises(InvalidArgument, match="host_ip '2001:db8::1' is of IPv6, and pods have no"):
            await world.pod(3, PortMapping(Protocol.TCP, 80, 8081, "2001:db8::1"))
        assert len(world.leases()) == 2

    on_node(body)


def test_ipv6_alone_where_there_is_none_is_refused(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        switches.set_switch(f"{CONF6}/all/disable_ipv6", "1")
        world.network = world.bridge(subnet="fd00:1::/64")
        with pytest.raises(FailedPrecondition, match=r"IPv6 addresses alone, from fd00:1::/64, but .* is 1"):
            await world.pod(1)
        assert (world.links(), world.tables(), world.leases()) == ({"lo"}, [], [])

    on_node(body)


def test_an_mtu_too_small_for_ipv6_means_ipv4(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        world.network = world.bridge(mtu=1200)
        await world.pod(1)
        assert world.results[world.sandbox(1)].ips == ("10.88.0.2",)
        assert "have an MTU of 1200, and IPv6 needs 1280" in (await world.network.status()).notes[0]

    on_node(body)


def test_a_kernel_without_nftables_gives_addresses_but_no_host_ports(
    on_node: OnNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nft, "NETLINK_NETFILTER", 25)  # no kernel has this one

    async def body(world: Any) -> None:
        one, two = await world.pod(1), await world.pod(2)
        server = two.listen(80)
        for version in (4, 6):
            assert world.call(server, one.connect(world.address(2, version), 80)) == world.address(1, version)
        with pytest.raises(
            FailedPrecondition, match="8080/TCP cannot be opened: this kernel has no nftables"
        ):
            await world.pod(3, WEB)
        assert len(world.leases()) == 2
        assert "modprobe nf_tables" in (await world.network.status()).notes[0]
        await world.network.close()
        world.network = world.bridge(isolated=True)
        with pytest.raises(FailedPrecondition, match=r"network\.isolated cannot be carried out"):
            await world.pod(4)
        assert len(world.leases()) == 2
        await world.network.close()
        await world.restart()
        await world.network.reconcile(set())
        assert world.links() == {"lo"}

    on_node(body)


def test_a_pod_whose_sysctls_refuse_ipv6_gets_ipv4(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        def off(pod: Any) -> None:
            pod.do(lambda: switches.set_switch(f"{CONF6}/all/disable_ipv6", "1"))
            pod.do(lambda: switches.set_switch(f"{CONF6}/default/disable_ipv6", "1"))

        pod = await world.pod(1, WEB, prepare=off)
        assert world.results[world.sandbox(1)].ips == ("10.88.0.2",)
        assert world.call(pod.listen(80, address="0.0.0.0"), world.connect("127.0.0.1", 8080)) == "10.88.0.1"  # noqa: S104
        await world.pod(2)
        assert world.address(2, 6).endswith("::3")

    on_node(body)


def test_a_link_of_the_bridges_name_stays_as_it_is(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with NetlinkSocket(node_side.NETLINK_ROUTE) as route:
            here = world.in_file("/proc/self/ns/net")
            mac = "02:00:00:00:00:09"
            route.request(links.encode_veth(world.bridge_name, 0, 1500, mac, "its-peer", here.fileno()))
        before = world.links()
        with pytest.raises(
            FailedPrecondition, match="is there and is no bridge but a veth: remove it, or set"
        ):
            await world.pod(1)
        condition = await world.network.status()
        assert not condition.ready
        assert "is no bridge but a veth" in condition.message
        await world.network.reconcile(set())
        assert (world.links(), world.tables(), world.leases()) == (before, [], [])

    on_node(body)


@pytest.mark.parametrize(
    ("subnet", "told"),
    [
        ("192.0.2.0/24", "192.0.2.0/24 overlaps 192.0.2.0/24"),
        ("192.0.0.0/16", "192.0.0.0/16 overlaps 192.0.2.0/24"),
        ("10.1.0.0/16,2001:db8::/64", "2001:db8::/64 overlaps 2001:db8::/64"),
    ],
)
def test_a_range_that_another_link_has_is_refused(on_node: OnNode, subnet: str, told: str) -> None:
    async def body(world: Any) -> None:
        with world.outside():
            world.network = world.bridge(subnet=subnet)
            with pytest.raises(
                FailedPrecondition, match=f"the pods' range {told}, which leads to 'uplink': set"
            ):
                await world.pod(1)
            assert not (await world.network.status()).ready
            assert (world.links(), world.tables(), world.leases()) == ({"lo", "uplink"}, [], [])

    on_node(body)


def test_a_part_of_what_a_router_has_is_no_harm(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside():
            world.network = world.bridge(subnet="192.0.2.128/25")
            await world.pod(1)
            assert world.address(1) == "192.0.2.130"

    on_node(body)


def test_chosen_ranges_collide_with_nothing(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside():
            world.give("uplink", "10.88.7.1/24")
            await world.pod(1)
            assert world.address(1) == "10.89.0.2"

    on_node(body)


def test_packets_are_as_large_as_the_uplinks(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside(mtu=1400) as machine:
            world.route_to(machine)
            pod = await world.pod(1)
            with NetlinkSocket(node_side.NETLINK_ROUTE, pod.netlink.fileno()) as inside:
                assert links.parse_link(inside.request(links.encode_get_link("eth0"))[0]).mtu == 1400

    on_node(body)


@pytest.mark.parametrize(
    ("subnet", "ips"), [("10.1.0.0/24", 1), ("fd00:1::/64", 1), ("fd00:1::/64,10.1.0.0/24", 2)]
)
def test_pods_get_the_versions_that_are_named(on_node: OnNode, subnet: str, ips: int) -> None:
    async def body(world: Any) -> None:
        world.network = world.bridge(subnet=subnet)
        one, _ = await world.pod(1, WEB), await world.pod(2)
        found = world.results[world.sandbox(1)].ips
        assert len(found) == ips
        server = one.listen(80)
        for address in found:
            world.call(server, world.pods[world.sandbox(2)].connect(address, 80))
        gateway = "fd00:1::1" if subnet.startswith("fd00:1::/64") else "10.1.0.1"
        assert world.call(server, world.connect(gateway, 8080)) == gateway
        await world.end(1)
        await world.end(2)
        await world.network.remove_if_unused()
        assert (world.links(), world.tables()) == ({"lo"}, [])

    on_node(body)


def test_addresses_that_are_coming_back_are_waited_for(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        world.network = world.bridge(subnet="10.1.2.0/29,fd00:1::/125")
        for number in range(1, 6):
            await world.pod(number)
        with pytest.raises(ResourceExhausted, match=r"no address is free in 10\.1\.2\.0/29: 5 pods have one"):
            await world.pod(6)
        await asyncio.gather(*(world.end(number) for number in range(1, 6)))
        await asyncio.gather(*(world.pod(number) for number in range(11, 16)))
        assert len({world.address(number, 6) for number in range(11, 16)}) == 5

    on_node(body)


def test_a_link_that_cannot_be_removed_is_tried_again(
    on_node: OnNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "FIRST_PAUSE_S", 0.01)

    async def body(world: Any) -> None:
        lines = Lines()
        await world.pod(1)
        link = world.results[world.sandbox(1)].host_interface
        world.remove_link(link)
        world.rename("lo", link)  # nobody can remove the loopback interface
        await world.end(1)
        (world.directory / world.bridge_name / "leases").stat()
        while not (notes := (await world.network.status()).notes):
            await asyncio.sleep(0.01)
        assert notes[0].startswith(f"link {link} of sandbox {world.sandbox(1)} cannot be removed yet: ")
        assert "10.88.0.2 and fd" in notes[0]
        assert "is removed later" in lines.lines[0]
        await world.pod(2)
        assert world.address(2) == "10.88.0.3"
        world.rename(link, "lo")
        while world.leases() != [world.sandbox(2)]:
            await asyncio.sleep(0.01)
        assert (await world.network.status()).notes == ()

    on_node(body)


def test_the_node_goes_on_listening_to_its_routers(on_node: OnNode) -> None:
    """With forwarding on, a kernel that is not told otherwise loses the routes that it learnt."""

    async def body(world: Any) -> None:
        with world.outside():
            assert switches.get(f"{CONF6}/uplink/accept_ra") == "1"
            await world.pod(1)
            assert switches.get(f"{CONF6}/all/forwarding") == "1"
            assert switches.get(f"{CONF6}/uplink/accept_ra") == "2"
            assert switches.get(f"{CONF6}/{world.bridge_name}/accept_ra") == "0"

    on_node(body)


def test_pods_of_an_older_release_keep_what_they_have(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        world.network = world.bridge(subnet="10.88.0.0/16")
        old = await world.pod(1, WEB)
        await world.network.close()
        directory: Path = world.directory / world.bridge_name
        (directory / "subnet.json").write_text('{"subnet":"10.88.0.0/16","chosen":true,"version":1}')
        lease = directory / "leases" / f"{world.sandbox(1)}.json"
        record = json.loads(lease.read_text())
        for entry in record["ports"]:
            del entry["version"]
        del record["address6"], record["failure"]
        lease.write_text(json.dumps(record | {"version": 1}))
        await world.restart()
        await world.network.reconcile({world.sandbox(1)})
        await world.pod(2)
        assert world.results[world.sandbox(2)].ips[0] == "10.88.0.3"
        assert len(world.results[world.sandbox(2)].ips) == 2
        server = old.listen(80)
        assert world.call(server, world.connect("127.0.0.1", 8080)) == "10.88.0.1"
        neighbour = world.pods[world.sandbox(2)]
        assert world.call(server, neighbour.connect(world.address(1), 80)) == "10.88.0.3"
        await world.end(1)
        await world.network.close()
        assert world.leases() == [world.sandbox(2)]

    on_node(body)


@pytest.mark.parametrize("bridged", ["0", "1"])  # whether netfilter sees what the bridge passes by itself
@pytest.mark.parametrize("version", [4, 6])
def test_isolated_pods_reach_each_other_only_by_host_ports(
    on_node: OnNode, version: int, bridged: str
) -> None:
    async def body(world: Any) -> None:
        for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            if switches.get(f"net/bridge/{name}"):
                switches.set_switch(f"net/bridge/{name}", bridged)
        world.network = world.bridge(isolated=True)
        node, outside = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}[version]
        with world.outside() as machine:
            one, two = await world.pod(1, WEB), await world.pod(2)
            server = one.listen(80)
            assert world.call(server, two.connect(node, 8080)) == world.gateway(version)
            assert world.call(server, one.connect(node, 8080)) == world.gateway(version)
            assert world.call(server, machine.connect(node, 8080)) == outside
            assert world.call(server, world.connect(world.address(1, version), 80)) == world.gateway(version)
            assert world.call(machine.listen(81), two.connect(outside, 81)) == node
            for route in (False, True):  # over the bridge, then by way of the node
                if route:
                    world.lead_by_gateway(two, version)
                client = two.do(
                    lambda: socket.socket(
                        socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM
                    )
                )
                client.settimeout(0.3)
                with client, pytest.raises(OSError, match=r"timed out|No route to host"):
                    client.connect((world.address(1, version), 80))

    on_node(body)


@pytest.mark.parametrize(
    ("family", "outside"), [("ip", "192.0.2.2"), ("ip6", "2001:db8::2"), ("inet", "192.0.2.2")]
)
def test_rules_that_drop_what_they_do_not_know_are_told_with_a_remedy_that_works(
    on_node: OnNode, family: str, outside: str
) -> None:
    async def body(world: Any) -> None:
        with world.outside() as machine:
            world.nft(
                f"add table {family} filter",
                f"add chain {family} filter FORWARD {{ type filter hook forward priority 0; policy drop; }}",
                f"add rule {family} filter FORWARD iifname docker0 accept",
            )
            lines = Lines()
            pod = await world.pod(1)
            (note,) = (await world.network.status()).notes
            assert note.startswith(f"nftables chain '{family} filter FORWARD' of another program drops")
            assert lines.lines == [note]
            server = machine.listen(80)
            client = pod.do(lambda: socket.socket(socket.AF_INET6 if ":" in outside else socket.AF_INET))
            client.settimeout(0.3)
            with client, pytest.raises(TimeoutError):
                client.connect((outside, 80))
            world.nft(*(part.removeprefix("nft ") for part in note.partition("outside: ")[2].split(" && ")))
            world.call(server, pod.connect(outside, 80))
            assert (await world.network.status()).notes == ()

    on_node(body)


def test_forwarding_that_is_off_is_turned_on(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            switches.set_switch(name, "0")
        await world.pod(1)
        assert switches.get("net/ipv4/ip_forward") == switches.get("net/ipv6/conf/all/forwarding") == "1"

    on_node(body)


@pytest.mark.parametrize("subnet", ["", "10.1.0.0/16", "fd00:1::/64"])
def test_switches_that_cannot_be_set_leave_nothing(on_node: OnNode, subnet: str) -> None:
    async def body(world: Any) -> None:
        world.protect_switches()
        world.network = world.bridge(subnet=subnet)
        with pytest.raises(
            FailedPrecondition, match=r"cannot set /proc/sys/net/\S+ to \d: Read-only file system"
        ):
            await world.pod(1)
        assert (world.links(), world.tables(), world.leases()) == ({"lo"}, [], [])
        assert "Read-only file system" in (await world.network.status()).message

    on_node(body)
