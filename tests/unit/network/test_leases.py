"""Leases: who has which address, on disk before anything else."""

import dataclasses
import ipaddress
import json
import os
from pathlib import Path

import pytest

from shim.errors import AlreadyExists, ResourceExhausted
from shim.network.leases import VERSION, Leases
from shim.network.port_mappings import PortEntry

POOL = ipaddress.IPv4Network("10.1.2.0/29")  # .1 is the gateway's, .2 to .6 are for pods
POOL6 = ipaddress.IPv6Network("fd00::/64")
WEB = PortEntry("TCP", "", 8080, "", 80)


def sandbox(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def make(tmp_path: Path):
    return lambda: Leases(str(tmp_path / "network"), str(tmp_path / "quarantine"))


def take(leases: Leases, number: int, *ports: PortEntry) -> str:
    return leases.take(sandbox(number), f"link{number}", ports, [POOL]).address


def test_network_gateway_and_broadcast_are_never_given_away(make) -> None:
    leases = make()
    given = [take(leases, number) for number in range(5)]
    assert given == ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]
    with pytest.raises(ResourceExhausted, match=r"no address is free in 10\.1\.2\.0/29: 5 pods"):
        take(leases, 9)


def test_an_address_that_came_back_is_the_last_to_be_used_again(make) -> None:
    leases = make()
    take(leases, 1)
    leases.drop(sandbox(1))
    assert [take(leases, number) for number in range(2, 7)] == [f"10.1.2.{n}" for n in (3, 4, 5, 6, 2)]


def test_the_turn_goes_on_after_a_restart(make, tmp_path: Path) -> None:
    leases = make()
    for number in (1, 2, 3):
        take(leases, number)
    for number, at in ((1, 50), (2, 10), (3, 60)):
        os.utime(tmp_path / "network/leases" / f"{sandbox(number)}.json", (at, at))
    leases.drop(sandbox(2))
    assert take(make(), 7) == "10.1.2.5"


def test_an_address_stays_taken_until_its_link_is_gone(make) -> None:
    leases = make()
    for number in range(5):
        take(leases, number)
    lease = leases.get(sandbox(0))
    assert lease is not None
    leases.release(lease)
    with pytest.raises(ResourceExhausted):
        take(leases, 7)
    leases.drop(sandbox(0))
    leases.drop(sandbox(0))
    assert take(leases, 7) == "10.1.2.2"


def test_a_port_is_free_as_soon_as_its_pod_is_torn_down(make) -> None:
    leases = make()
    take(leases, 1, WEB)
    with pytest.raises(AlreadyExists, match=f"8080/TCP is taken by sandbox '{sandbox(1)}'"):
        take(leases, 2, WEB)
    assert leases.get(sandbox(2)) is None
    lease = leases.get(sandbox(1))
    assert lease is not None
    leases.release(lease)
    take(leases, 2, WEB)


def test_a_restart_finds_all_of_it(make) -> None:
    leases = make()
    take(leases, 1, WEB)
    take(leases, 2)
    assert {lease.sandbox_id: lease for lease in make()} == {lease.sandbox_id: lease for lease in leases}
    assert [port.pod_ip for lease in make() for port in lease.ports] == ["10.1.2.2"]


def test_what_cannot_be_read_is_set_aside(make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leases = make()
    take(leases, 1)
    place = tmp_path / "network/leases"
    (place / f"{sandbox(2)}.json").write_text("{")
    newer = json.loads((place / f"{sandbox(1)}.json").read_text()) | {"version": 3}
    (place / f"{sandbox(3)}.json").write_text(json.dumps(newer | {"sandbox_id": sandbox(3)}))
    (place / ".half.tmp").write_text("")
    assert [lease.sandbox_id for lease in make()] == [sandbox(1)]
    assert sorted(path.name for path in (tmp_path / "quarantine").iterdir()) == [
        f"lease-{sandbox(2)}.json",
        f"lease-{sandbox(3)}.json",
    ]
    assert "is set aside" in caplog.text
    assert [path.name for path in place.iterdir()] == [f"{sandbox(1)}.json"]


def test_a_second_network_for_one_sandbox_is_refused(make) -> None:
    leases = make()
    take(leases, 1)
    with pytest.raises(AlreadyExists, match="has a network already"):
        take(leases, 1)


def test_the_record_of_version_1_stays_readable(make, tmp_path: Path) -> None:
    golden = (
        '{"sandbox_id":"%s","address":"10.1.2.4","link":"cs123456","ports":[{"protocol":"TCP","host_ip":"",'
        '"host_port":8080,"pod_ip":"10.1.2.4","container_port":80}],"released":false,"version":1}'
    )
    make()
    (tmp_path / "network/leases" / f"{sandbox(1)}.json").write_text(golden % sandbox(1))
    (lease,) = make()
    assert (lease.address, lease.link, lease.ports[0].host_port) == ("10.1.2.4", "cs123456", 8080)
    assert (lease.address6, lease.ports[0].version, lease.version) == ("", 4, VERSION)


def test_the_record_of_version_2_stays_readable(make, tmp_path: Path) -> None:
    golden = (
        '{"sandbox_id":"%s","address":"10.1.2.4","link":"cs123456","ports":[{"protocol":"SCTP","host_ip":"::1",'
        '"host_port":8080,"pod_ip":"fd00::4","container_port":80,"version":6}],"released":true,'
        '"address6":"fd00::4","failure":"why","version":2}'
    )
    make()
    (tmp_path / "network/leases" / f"{sandbox(1)}.json").write_text(golden % sandbox(1))
    (lease,) = make()
    assert lease.addresses == ("10.1.2.4", "fd00::4")
    assert lease.ports == (PortEntry("SCTP", "::1", 8080, "fd00::4", 80, 6),)
    assert (lease.released, lease.failure) == (True, "why")


def test_each_version_of_ip_has_its_turn(make) -> None:
    leases = make()
    ports = (WEB, dataclasses.replace(WEB, version=6))
    lease = leases.take(sandbox(1), "link1", ports, [POOL, POOL6])
    assert lease.addresses == ("10.1.2.2", "fd00::2")
    assert [port.pod_ip for port in lease.ports] == ["10.1.2.2", "fd00::2"]
    assert leases.take(sandbox(2), "link2", (), [POOL6]).addresses == ("fd00::3",)
    assert make().take(sandbox(3), "link3", (), [POOL, POOL6]).addresses == ("10.1.2.3", "fd00::4")


def test_a_pod_that_refuses_ipv6_gives_address_and_ports_back(make) -> None:
    leases = make()
    ports = (WEB, dataclasses.replace(WEB, version=6))
    lease = leases.without_ipv6(leases.take(sandbox(1), "link1", ports, [POOL, POOL6]))
    assert (lease.addresses, [port.version for port in lease.ports]) == (("10.1.2.2",), [4])
    leases.take(sandbox(2), "link2", ports[1:], [POOL6])
    with pytest.raises(AlreadyExists):
        leases.take(sandbox(3), "link3", ports[:1], [POOL6])


def test_no_address_is_given_away_when_one_of_two_pools_is_used_up(make) -> None:
    leases = make()
    for number in range(5):
        take(leases, number)
    with pytest.raises(ResourceExhausted):
        leases.take(sandbox(9), "link9", (), [POOL6, POOL])
    assert leases.take(sandbox(9), "link9", (), [POOL6]).addresses == ("fd00::2",)
