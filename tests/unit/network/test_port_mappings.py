"""Host ports: what is planned, what clashes, what a process of the node has."""

import dataclasses
import socket

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.network import PortMapping, Protocol
from shim.network.port_mappings import PortEntry, check_free, clash, plan

TCP, UDP = Protocol.TCP, Protocol.UDP


def test_no_host_port_is_no_mapping() -> None:
    assert plan([PortMapping(TCP, 80, 0), PortMapping(Protocol.SCTP, 80, 0, "nonsense")]) == ()


@pytest.mark.parametrize(
    ("host_ip", "expected"),
    [
        ("", [("", 4), ("", 6)]),
        ("0.0.0.0", [("", 4)]),  # noqa: S104  # compared, never bound
        ("::", [("", 6)]),
        ("::ffff:192.0.2.1", [("192.0.2.1", 4)]),
        ("2001:DB8:0::1", [("2001:db8::1", 6)]),
        ("127.0.0.1", [("127.0.0.1", 4)]),
    ],
)
def test_an_address_says_which_version_of_ip_is_meant(host_ip: str, expected: list[tuple[str, int]]) -> None:
    entries = plan([PortMapping(Protocol.SCTP, 80, 8080, host_ip)], (4, 6))
    assert entries == tuple(PortEntry("SCTP", ip, 8080, "", 80, version) for ip, version in expected)


def test_no_address_means_the_versions_that_pods_have() -> None:
    assert [entry.version for entry in plan([PortMapping(TCP, 80, 8080)], (6,))] == [6]


@pytest.mark.parametrize(
    ("mapping", "why"),
    [
        (PortMapping(TCP, 80, 8080, "::1"), "'::1' cannot lead to a pod"),
        (
            PortMapping(TCP, 80, 8080, "2001:db8::1"),
            "'2001:db8::1' is of IPv6, and pods have no address of that",
        ),
        (PortMapping(TCP, 80, 8080, "fe80::1%eth0"), "'fe80::1%eth0' is a link-local address"),
        (PortMapping(TCP, 80, 8080, "224.0.0.1"), "'224.0.0.1' is a multicast address"),
        (PortMapping(TCP, 80, 8080, "localhost"), "'localhost' is no IP address"),
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
    assert not clash(first, dataclasses.replace(second, version=6))


@pytest.mark.parametrize(("protocol", "kind"), [("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)])
@pytest.mark.parametrize(
    ("listens", "in_the_way", "free"),
    [
        ("127.0.0.1", [("", 4), ("127.0.0.1", 4)], [("127.0.0.2", 4), ("", 6)]),
        ("::1", [("", 6), ("::1", 6)], [("", 4)]),
        ("::", [("", 4), ("", 6), ("127.0.0.1", 4)], []),  # of both versions
    ],
)
def test_a_listening_process_is_in_the_way(
    protocol: str, kind: int, listens: str, in_the_way: list[tuple[str, int]], free: list[tuple[str, int]]
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in listens else socket.AF_INET, kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((listens, 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        for host_ip, version in in_the_way:
            with pytest.raises(FailedPrecondition, match=f"host port {port}/{protocol} is in use"):
                check_free([PortEntry(protocol, host_ip, port, "", 80, version)])
        for host_ip, version in free:
            check_free([PortEntry(protocol, host_ip, port, "", 80, version)])
    check_free([PortEntry(protocol, "", port, "", 80, version) for version in (4, 6)])


def test_an_address_that_the_node_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"'192\.0\.2\.1' is no address of this node"):
        check_free([PortEntry("TCP", "192.0.2.1", 8080, "10.0.0.2", 80)])
