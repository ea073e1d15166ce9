"""Pods of the built-in network on a real kernel: addresses, ways out, what is left behind."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shim.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from shim.model.network import PortMapping, Protocol

pytestmark = pytest.mark.root

OnNode = Callable[[Callable[[Any], Awaitable[Any]]], Any]
WEB = PortMapping(Protocol.TCP, 80, 8080)


@pytest.mark.parametrize("version", [4, 6])
def test_pods_reach_each_other_and_the_node_reaches_them(on_node: OnNode, version: int) -> None:
    async def body(world: Any) -> None:
        one, two = await world.pod(1), await world.pod(2)
        server = two.listen(80)
        assert world.call(server, one.connect(world.address(2, version), 80)) == world.address(1, version)
        assert world.call(server, world.connect(world.address(2, version), 80)) == world.gateway(version)
        result = world.results[world.sandbox(1)]
        assert [ipaddress.ip_address(ip).version for ip in result.ips] == [4, 6]
        assert result.ips[0] == "10.88.0.2"
        assert ipaddress.ip_address(result.ips[1]) in ipaddress.ip_network("fd00::/8")
        assert result.mac == "0a:58:0a:58:00:02"
        assert result.host_interface in world.links()

    on_node(body)


@pytest.mark.parametrize(("outside", "node"), [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")])
def test_what_leaves_the_node_carries_its_address(on_node: OnNode, outside: str, node: str) -> None:
    async def body(world: Any) -> None:
        with world.outside() as machine:
            pod = await world.pod(1)
            server = machine.listen(80)
            assert world.call(server, pod.connect(outside, 80)) == node

    on_node(body)


@pytest.mark.parametrize("namespace_first", [False, True])
def test_a_teardown_leaves_nothing(on_node: OnNode, namespace_first: bool) -> None:
    async def body(world: Any) -> None:
        await world.pod(1, WEB)
        await world.end(1, namespace_first=namespace_first)
        await world.network.teardown(world.sandbox(1), "")
        await world.network.close()
        assert world.links() == {"lo", world.bridge_name}
        assert world.leases() == []
        await world.restart()
        await world.network.remove_if_unused()
        assert world.links() == {"lo"}
        assert world.tables() == []

    on_node(body)


def test_twenty_rounds_leave_no_descriptor(on_node: OnNode) -> None:
    async def round_of(world: Any, number: int) -> int:
        await world.pod(number, WEB)
        await world.end(number)
        await world.settled()
        return len(os.listdir("/proc/self/fd"))

    async def body(world: Any) -> None:
        for number in range(1, 4):
            before = await round_of(world, number)
        assert {await round_of(world, number) for number in range(4, 24)} == {before}
        await world.network.close()
        assert world.links() == {"lo", world.bridge_name}

    on_node(body)


def test_an_address_in_use_is_not_given_away_again(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        world.network = world.bridge(subnet="10.1.2.0/29")
        for number in range(1, 6):
            await world.pod(number)
        with pytest.raises(ResourceExhausted, match=r"no address is free in 10\.1\.2\.0/29"):
            await world.pod(6)
        await world.end(3)
        await world.network.close()
        world.network = world.bridge(subnet="10.1.2.0/29")
        await world.pod(7)
        assert world.address(7) == "10.1.2.4"

    on_node(body)


def test_a_crash_leaves_nothing_that_the_next_start_does_not_find(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        lives, _ = await world.pod(1, WEB), await world.pod(2, PortMapping(Protocol.TCP, 80, 8081))
        await world.pod(3)
        os.unlink(world.directory / world.bridge_name / "leases" / f"{world.sandbox(3)}.json")
        await world.restart()
        await world.network.reconcile({world.sandbox(1)})
        assert world.leases() == [world.sandbox(1)]
        assert world.links() == {"lo", world.bridge_name, world.results[world.sandbox(1)].host_interface}
        server = lives.listen(80)
        assert world.call(server, world.connect("127.0.0.1", 8080)) == "10.88.0.1"
        with pytest.raises(ConnectionRefusedError):
            world.connect("127.0.0.1", 8081)()

    on_node(body)


def test_a_lease_that_cannot_be_read_costs_no_live_pod_its_network(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        pod = await world.pod(1)
        (world.directory / world.bridge_name / "leases" / f"{world.sandbox(1)}.json").write_text("{")
        await world.restart()
        await world.network.status()
        await world.network.reconcile({world.sandbox(1)})
        assert world.call(pod.listen(80), world.connect(world.address(1), 80)) == "10.88.0.1"

    on_node(body)


def test_nothing_live_means_nothing_left(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        await world.pod(1, WEB)
        await world.restart()
        await world.network.reconcile(set())
        assert (world.links(), world.tables(), world.leases()) == ({"lo"}, [], [])

    on_node(body)


def test_a_setup_that_fails_leaves_nothing(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        await world.pod(1)
        taken = world.listen(8080)
        before = world.links()
        with pytest.raises(FailedPrecondition, match="8080/TCP is in use"):
            await world.pod(2, WEB)
        taken.close()
        assert world.links() == before
        assert world.leases() == [world.sandbox(1)]
        await world.pod(2, WEB)
        with pytest.raises(AlreadyExists, match="8080/TCP is taken by sandbox"):
            await world.pod(3, WEB)
        with pytest.raises(AlreadyExists, match="has a network already"):
            await world.pod(2)

    on_node(body)


def test_a_bridge_that_was_removed_comes_back_with_its_pods(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        one = await world.pod(1, WEB)
        world.remove_link(world.bridge_name)
        two = await world.pod(2)
        server = one.listen(80)
        assert world.call(server, two.connect(world.address(1), 80)) == world.address(2)
        assert world.call(server, world.connect("127.0.0.1", 8080)) == "10.88.0.1"

    on_node(body)


@pytest.mark.parametrize("version", [4, 6])
def test_rules_that_were_flushed_come_back_with_the_next_status(on_node: OnNode, version: int) -> None:
    async def body(world: Any) -> None:
        pod = await world.pod(1, WEB)
        world.remove_table(world.bridge_name)
        world.remove_table(world.bridge_name, 6)
        if version == 6:  # the other is there again
            await world.network.status()
            world.remove_table(world.bridge_name, 6)
            assert (await world.network.status()).ready
            server = pod.listen(80)
            assert world.call(server, world.connect(world.gateway(6), 8080)) == world.gateway(6)
            return
        with pytest.raises(ConnectionRefusedError):
            world.connect("127.0.0.1", 8080)()
        assert (await world.network.status()).ready
        assert world.call(pod.listen(80), world.connect("127.0.0.1", 8080)) == "10.88.0.1"

    on_node(body)


def test_two_daemons_never_meet(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        first = world.network
        await world.pod(1)
        world.network = world.bridge("cri-shim-test1")
        await world.pod(2)
        assert (world.address(1), world.address(2)) == ("10.88.0.2", "10.89.0.2")
        await world.network.reconcile(set())
        assert world.tables() == [world.bridge_name]
        assert world.results[world.sandbox(1)].host_interface in world.links()
        await first.reconcile({world.sandbox(1)})
        assert world.leases() == [world.sandbox(1)]

    on_node(body)


def test_eight_at_once_and_a_caller_that_leaves(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        await asyncio.gather(*(world.pod(number) for number in range(1, 9)))
        assert len({world.address(number) for number in range(1, 9)}) == 8
        leaving = asyncio.ensure_future(world.end(1))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(*(world.end(number) for number in range(2, 9)), return_exceptions=True)
        await world.network.teardown(world.sandbox(1), "")
        await world.network.close()
        assert (world.leases(), world.links()) == ([], {"lo", world.bridge_name})

    on_node(body)


def test_the_kubelets_range_is_taken_while_no_pod_has_an_address(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        await world.network.update_pod_cidr("fd00:7::/64,10.7.0.0/24")
        await world.pod(1)
        assert world.results[world.sandbox(1)].ips == ("10.7.0.2", "fd00:7::2")
        await world.network.update_pod_cidr("10.9.0.0/24")
        await world.pod(2)
        assert world.address(2) == "10.7.0.3"
        await world.restart()
        await world.pod(3)
        assert world.results[world.sandbox(3)].ips == ("10.7.0.4", "fd00:7::4")

    on_node(body)
