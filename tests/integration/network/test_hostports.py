"""Ports of the node that lead to pods, on a real kernel."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shim.model.network import PortMapping, Protocol

pytestmark = pytest.mark.root

OnNode = Callable[[Callable[[Any], Awaitable[Any]]], Any]
TCP, UDP = Protocol.TCP, Protocol.UDP
NODE, GATEWAY = "192.0.2.1", "10.88.0.1"


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def test_tcp_from_everywhere(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside() as machine:
            pod, neighbour = await world.pod(1, PortMapping(TCP, 80, 8080)), await world.pod(2)
            server = pod.listen(80)
            assert world.call(server, machine.connect(NODE, 8080)) == "192.0.2.2"  # the client's own address
            assert world.call(server, world.connect("127.0.0.1", 8080)) == GATEWAY
            assert world.call(server, world.connect(NODE, 8080)) == NODE
            assert world.call(server, neighbour.connect(NODE, 8080)) == GATEWAY
            assert world.call(server, pod.connect(NODE, 8080)) == GATEWAY  # a pod calls itself
            assert world.call(server, pod.connect(GATEWAY, 8080)) == GATEWAY

    on_node(body)


def test_udp_beside_tcp(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside() as machine:
            pod = await world.pod(1, PortMapping(UDP, 53, 5353), PortMapping(TCP, 80, 5353))
            server = pod.listen(53, socket.SOCK_DGRAM)
            assert world.ask(server, machine.do(datagrams), NODE, 5353) == "192.0.2.2"
            assert world.ask(server, datagrams(), "127.0.0.1", 5353) == GATEWAY
            assert world.ask(server, pod.do(datagrams), NODE, 5353) == GATEWAY
            assert world.call(pod.listen(80), machine.connect(NODE, 5353)) == "192.0.2.2"

    on_node(body)


def test_one_port_on_two_addresses(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside() as machine:
            one = await world.pod(1, PortMapping(TCP, 80, 8080, "127.0.0.1"))
            two = await world.pod(2, PortMapping(TCP, 80, 8080, NODE))
            assert world.call(one.listen(80), world.connect("127.0.0.1", 8080)) == GATEWAY
            assert world.call(two.listen(80), machine.connect(NODE, 8080)) == "192.0.2.2"

    on_node(body)


def test_a_client_that_goes_on_sending_reaches_the_pod_that_has_the_port_now(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside() as machine:
            client = machine.do(datagrams)
            with world.listen(5353, NODE, socket.SOCK_DGRAM) as nobodys:
                client.sendto(b"too early", (NODE, 5353))
                assert nobodys.recv(100) == b"too early"  # so the kernel knows the flow
            for number in (1, 2):
                pod = await world.pod(number, PortMapping(UDP, 53, 5353))
                server = pod.listen(53, socket.SOCK_DGRAM)
                await world.settled()
                assert world.ask(server, client, NODE, 5353) == "192.0.2.2"
                await world.end(number)
                await world.settled()

    on_node(body)


def test_a_port_is_closed_when_teardown_returns(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        pod = await world.pod(1, PortMapping(TCP, 80, 8080))
        assert world.call(pod.listen(80), world.connect("127.0.0.1", 8080)) == GATEWAY
        await world.end(1)
        with pytest.raises(ConnectionRefusedError):
            world.connect("127.0.0.1", 8080)()
        await world.pod(2, PortMapping(TCP, 80, 8080))

    on_node(body)


def test_pods_do_not_reach_what_listens_on_the_nodes_loopback(on_node: OnNode) -> None:
    """CVE-2020-8558: route_localnet alone would let them in."""

    async def body(world: Any) -> None:
        pod = await world.pod(1)
        secret = world.listen(9000, "127.0.0.1", socket.SOCK_DGRAM)
        witness = world.listen(9000, GATEWAY, socket.SOCK_DGRAM)
        for source, target in (
            (world.address(1), "127.0.0.1"),
            ("127.0.0.1", GATEWAY),
            (world.address(1), GATEWAY),
        ):
            world.send_frame(pod, source, target, 9000)
        assert witness.recvfrom(100)[1][0] == world.address(1)  # so the others had their time
        secret.setblocking(False)
        with pytest.raises(BlockingIOError):
            secret.recvfrom(100)

    on_node(body)


def test_pods_do_not_reach_the_loopback_address_of_ipv6(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        pod = await world.pod(1)
        own, gateway = world.address(1, 6), world.gateway(6)
        secret = world.listen(9000, "::1", socket.SOCK_DGRAM)
        witness = world.listen(9000, gateway, socket.SOCK_DGRAM)
        for source, target in ((own, "::1"), ("::1", gateway), (own, gateway)):
            world.send_frame(pod, source, target, 9000)
        assert witness.recvfrom(100)[1][0] == own  # so the others had their time
        for sock in (secret, witness):
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recvfrom(100)

    on_node(body)
