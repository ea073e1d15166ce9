"""Host ports: what is planned, what clashes, what a process of the node has."""

import socket

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.network import PortMapping, Protocol
from shim.network.port_mappings import PortEntry, check_free, clash, plan

TCP, UDP = Protocol.TCP, Protocol.UDP


def test_no_host_port_is_no_mapping() -> None:
    assert plan([PortMapping(TCP, 80, 0), PortMapping(Protocol.SCTP, 80, 0, "nonsense")]) == ()


@pytest.mark.parametrize("everywhere", ["", "0.0.0.0", "::"])  # noqa: S104  # compared, never bound
def test_any_address_has_several_names(everywhere: str) -> None:
    assert plan([PortMapping(TCP, 80, 8080, everywhere)]) == (PortEntry("TCP", "", 8080, "", 80),)


@pytest.mark.parametrize(
    ("mapping", "why"),
    [
        (PortMapping(Protocol.SCTP, 80, 8080), "8080/SCTP: this protocol is not supported"),
        (PortMapping(TCP, 80, 8080, "::1"), "'::1' is no IPv4 address"),
        (PortMapping(TCP, 80, 8080, "localhost"), "'localhost' is no IPv4 address"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(mapping: PortMapping, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        plan([mapping])


def test_one_pod_cannot_have_a_port_twice() -> None:
    with pytest.raises(InvalidArgument, match="8080/TCP is named twice"):
        plan([PortMapping(TCP, 80, 8080), PortMapping(TCP, 81, 8080, "192.0.2.1")])
    assert len(plan([PortMapping(TCP, 80, 53), PortMapping(UDP, 80, 53)])) == 2


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("TCP", "", 80), ("TCP", "", 80), True),
        (("TCP", "", 80), ("TCP", "192.0.2.1", 80), True),
        (("TCP", "192.0.2.1", 80), ("TCP", "192.0.2.1", 80), True),
        (("TCP", "192.0.2.1", 80), ("TCP", "192.0.2.2", 80), False),
        (("TCP", "", 80), ("UDP", "", 80), False),
        (("TCP", "", 80), ("TCP", "", 81), False),
    ],
)
def test_clash_is_one_packet_that_both_want(
    one: tuple[str, str, int], other: tuple[str, str, int], expected: bool
) -> None:
    first, second = PortEntry(*one, "", 1), PortEntry(*other, "", 2)
    assert (clash(first, second), clash(second, first)) == (expected, expected)


@pytest.mark.parametrize(("protocol", "kind"), [("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)])
def test_a_listening_process_is_in_the_way(protocol: str, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        for host_ip in ("", "127.0.0.1"):
            with pytest.raises(FailedPrecondition, match=f"host port {port}/{protocol} is in use"):
                check_free([PortEntry(protocol, host_ip, port, "10.0.0.2", 80)])
        check_free([PortEntry(protocol, "127.0.0.2", port, "10.0.0.2", 80)])
    check_free([PortEntry(protocol, "", port, "10.0.0.2", 80)])


def test_an_address_that_the_node_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"'192\.0\.2\.1' is no address of this node"):
        check_free([PortEntry("TCP", "192.0.2.1", 8080, "10.0.0.2", 80)])
