"""The table of host ports: who reaches a pod by which address of the node, and what is refused.

SCTP needs sockets of it: a kernel that has none skips those rows (``hack/test --full`` runs them in a virtual
machine).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from shim.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from shim.model.network import PortMapping, Protocol
from tests.integration.network.conftest import PATIENCE_S

pytestmark = pytest.mark.root

OnNode = Callable[[Callable[[Any], Awaitable[Any]]], Any]
KINDS = {
    Protocol.TCP: (socket.SOCK_STREAM, 0),
    Protocol.UDP: (socket.SOCK_DGRAM, 0),
    Protocol.SCTP: (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
NODE, NODE6 = "192.0.2.1", "2001:db8::1"
OUTSIDE, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
SECOND, SECOND6 = "192.0.2.7", "2001:db8::7"  # more addresses of the node
LOOPBACK = "127.0.0.1"
GATEWAY = "gateway"  # the node's address on the bridge, of the version that is called


def has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Case:
    """Who calls which address; ``sees`` is who the pod thinks calls, empty where nothing comes through."""

    host_ip: str
    caller: str  # outside, node, pod (the one itself), neighbour
    target: str
    sees: str


REACHED = [
    Case("", "outside", NODE, OUTSIDE),
    Case("", "outside", NODE6, OUTSIDE6),
    Case("", "node", NODE, NODE),
    Case("", "node", NODE6, NODE6),
    Case("", "node", LOOPBACK, GATEWAY),
    Case("", "node", "127.9.9.9", GATEWAY),
    Case("", "neighbour", NODE, GATEWAY),
    Case("", "neighbour", NODE6, GATEWAY),
    Case("", "pod", NODE, GATEWAY),  # hairpin
    Case("", "pod", NODE6, GATEWAY),
    Case("", "pod", GATEWAY, GATEWAY),
    Case("0.0.0.0", "outside", NODE, OUTSIDE),  # noqa: S104
    Case("0.0.0.0", "node", LOOPBACK, GATEWAY),  # noqa: S104
    Case("::", "outside", NODE6, OUTSIDE6),
    Case(NODE, "outside", NODE, OUTSIDE),
    Case(NODE, "neighbour", NODE, GATEWAY),
    Case(NODE6, "outside", NODE6, OUTSIDE6),
    Case(NODE6, "node", NODE6, NODE6),
    Case(SECOND, "outside", SECOND, OUTSIDE),
    Case(SECOND6, "outside", SECOND6, OUTSIDE6),
    Case(LOOPBACK, "node", LOOPBACK, GATEWAY),
]
NOT_REACHED = [
    Case("0.0.0.0", "outside", NODE6, ""),  # noqa: S104
    Case("::", "outside", NODE, ""),
    Case(NODE, "outside", SECOND, ""),
    Case(NODE, "outside", NODE6, ""),
    Case(NODE6, "outside", SECOND6, ""),
    Case(NODE, "node", LOOPBACK, ""),
    Case(LOOPBACK, "outside", NODE, ""),
    Case("", "node", "::1", ""),  # refused at once: the kernel lets nothing of ::1 out
]


def client(target: str, protocol: Protocol) -> socket.socket:
    kind, number = KINDS[protocol]
    sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, kind, number)
    sock.settimeout(PATIENCE_S)
    return sock


async def prepare(world: Any, case: Case, protocol: Protocol) -> tuple[socket.socket, socket.socket, str]:
    """Return (the pod's server, a socket at the caller's, the address to call)."""
    pod = await world.pod(1, PortMapping(protocol, 80, 8080, case.host_ip))
    neighbour = await world.pod(2)
    kind, number = KINDS[protocol]
    server = pod.listen(80, kind, number)
    target = world.gateway() if case.target == GATEWAY else case.target
    places = {"outside": world.machine, "pod": pod, "neighbour": neighbour}
    place = places.get(case.caller)
    make = lambda: client(target, protocol)  # noqa: E731
    return server, make() if place is None else place.do(make), target


def rows() -> Iterator[Any]:
    """Yield (protocol, case) for each row of the table."""
    for protocol in KINDS:
        there = protocol is not Protocol.SCTP or has_sctp()
        for case in REACHED if there else REACHED[:1]:
            marks = () if there else pytest.mark.skip(reason="this kernel has no SCTP sockets")
            name = f"{protocol.name}-{case.host_ip}-{case.caller}-{case.target}"
            yield pytest.param(protocol, case, marks=marks, id=name)


@pytest.mark.parametrize(("protocol", "case"), list(rows()))
def test_who_is_led_to_the_pod(on_node: OnNode, protocol: Protocol, case: Case) -> None:
    async def body(world: Any) -> None:
        with world.outside() as world.machine:
            world.give("uplink", f"{SECOND}/24")
            world.give("uplink", f"{SECOND6}/64")
            server, sock, target = await prepare(world, case, protocol)
            sees = world.gateway(6 if ":" in target else 4) if case.sees == GATEWAY else case.sees
            if protocol is Protocol.UDP:
                assert world.ask(server, sock, target, 8080) == sees
            else:
                sock.connect((target, 8080))
                assert world.call(server, lambda: sock) == sees

    on_node(body)


@pytest.mark.parametrize("case", NOT_REACHED, ids=lambda case: f"{case.host_ip}-{case.caller}-{case.target}")
def test_what_is_meant_for_another_address_is_refused(on_node: OnNode, case: Case) -> None:
    async def body(world: Any) -> None:
        with world.outside() as world.machine:
            world.give("uplink", f"{SECOND}/24")
            world.give("uplink", f"{SECOND6}/64")
            _, sock, target = await prepare(world, case, Protocol.TCP)
            assert sock.connect_ex((target, 8080)) == errno.ECONNREFUSED

    on_node(body)


def test_the_ends_of_the_range(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        ports = [PortMapping(Protocol.TCP, inside, outside) for inside, outside in ((65535, 1), (1, 65535))]
        pod = await world.pod(1, *ports)
        for inside, outside in ((65535, 1), (1, 65535)):
            server = pod.listen(inside)
            assert world.call(server, world.connect(LOOPBACK, outside)) == world.gateway()

    on_node(body)


def test_one_port_on_two_addresses_leads_to_two_pods(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        with world.outside() as machine:
            world.give("uplink", f"{SECOND}/24")
            world.give("uplink", f"{SECOND6}/64")
            servers = {}
            for number, address in enumerate((NODE, SECOND, NODE6, SECOND6, LOOPBACK), 1):
                pod = await world.pod(number, PortMapping(Protocol.TCP, 80, 8080, address))
                servers[address] = pod.listen(80)
            assert world.call(servers.pop(LOOPBACK), world.connect(LOOPBACK, 8080)) == world.gateway()
            for address, server in servers.items():
                assert world.call(server, machine.connect(address, 8080)) == (
                    OUTSIDE6 if ":" in address else OUTSIDE
                )

    on_node(body)


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("listens", "host_ip"),
    [(LOOPBACK, ""), (LOOPBACK, LOOPBACK), ("::1", ""), ("::", NODE), ("::", "::"), (NODE6, NODE6)],
)
def test_a_process_that_listens_is_in_the_way(
    on_node: OnNode, protocol: Protocol, listens: str, host_ip: str
) -> None:
    async def body(world: Any) -> None:
        with world.outside():
            await world.pod(1)
            before = (world.links(), world.leases())
            with world.listen(8080, listens, KINDS[protocol][0]):
                with pytest.raises(FailedPrecondition, match=f"8080/{protocol.name} is in use: a process"):
                    await world.pod(2, PortMapping(protocol, 80, 8080, host_ip))
                other = {Protocol.TCP: Protocol.UDP, Protocol.UDP: Protocol.TCP}[protocol]
                await world.pod(3, PortMapping(other, 80, 8080, host_ip))
                await world.end(3)
                await world.network.close()
            assert (world.links(), world.leases()) == before

    on_node(body)


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("", "", True),
        ("", NODE, True),
        (NODE, "", True),
        (NODE6, "", True),
        (NODE, NODE, True),
        (NODE6, NODE6, True),
        ("::", NODE6, True),
        ("::", "0.0.0.0", False),  # noqa: S104
        ("::", NODE, False),
        (NODE, LOOPBACK, False),
        (NODE, NODE6, False),
    ],
)
def test_another_pod_is_in_the_way(on_node: OnNode, first: str, second: str, clash: bool) -> None:
    async def body(world: Any) -> None:
        with world.outside():
            await world.pod(1, PortMapping(Protocol.TCP, 80, 8080, first))
            before = (world.links(), world.leases())
            mapping = PortMapping(Protocol.TCP, 80, 8080, second)
            if not clash:
                await world.pod(2, mapping)
                return
            with pytest.raises(AlreadyExists, match=f"8080/TCP is taken by sandbox '{world.sandbox(1)}'"):
                await world.pod(2, mapping)
            assert (world.links(), world.leases()) == before
            await world.pod(3, PortMapping(Protocol.UDP, 80, 8080, second))
            await world.end(1)
            await world.pod(2, mapping)

    on_node(body)


@pytest.mark.parametrize(
    ("host_ip", "why"),
    [
        ("192.0.2.99", "is no address of this node"),
        ("2001:db8::99", "is no address of this node"),
        ("::1", "cannot lead to a pod: the kernel lets nothing of ::1 leave"),
        ("fe80::1", "is a link-local address"),
        ("ff02::1", "is a multicast address"),
        ("x", "is no IP address"),
    ],
)
def test_an_address_that_cannot_be_is_refused(on_node: OnNode, host_ip: str, why: str) -> None:
    async def body(world: Any) -> None:
        with world.outside():
            await world.pod(1)
            before = (world.links(), world.leases())
            with pytest.raises(InvalidArgument, match=why):
                await world.pod(2, PortMapping(Protocol.TCP, 80, 8080, host_ip))
            assert (world.links(), world.leases()) == before

    on_node(body)
