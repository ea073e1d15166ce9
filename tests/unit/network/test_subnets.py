"""Which ranges pods get."""

import ipaddress
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.network import pools, subnets
from shim.network.pools import Pools
from shim.network.subnets import CANDIDATES, SubnetRecord, candidates, pick, plan

NET = ipaddress.IPv4Network
NET6 = ipaddress.IPv6Network
A, B = NET("10.1.0.0/24"), NET("10.2.0.0/24")
A6, B6 = NET6("fd00:1::/64"), NET6("fd00:2::/64")


def test_the_first_that_collides_with_nothing() -> None:
    assert pick([], candidates(4)) == NET("10.88.0.0/16")
    assert pick([NET("0.0.0.0/0"), NET("10.88.3.0/24")], candidates(4)) == NET("10.89.0.0/16")
    assert pick([NET("10.0.0.0/8")], candidates(4)) == NET("172.28.0.0/16")


def test_the_one_from_before_goes_first_while_it_collides_with_nothing() -> None:
    before = NET("10.89.0.0/16")
    assert pick([], candidates(4, before)) == before
    assert pick([NET("10.89.0.0/24")], candidates(4, before)) == NET("10.88.0.0/16")
    assert pick([], candidates(6, A6)) == A6
    assert pick([NET6("fd00::/16")], candidates(6, A6)) != A6


def test_ranges_of_ipv6_are_random_and_nobody_elses() -> None:
    found = {pick([NET6("::/0"), A6], candidates(6)) for _ in range(20)}
    assert len(found) == 20
    assert all(
        isinstance(each, NET6) and each.prefixlen == 64 and each.subnet_of(NET6("fd00::/8")) for each in found
    )


@pytest.mark.parametrize(("version", "taken"), [(4, list(CANDIDATES)), (6, [NET6("fd00::/8")])])
def test_when_all_collide_it_says_what_to_do(version: int, taken: list[NET | NET6]) -> None:
    with pytest.raises(FailedPrecondition, match=r"set network\.subnet"):
        pick(taken, candidates(version))


@pytest.mark.parametrize(
    ("told", "before", "in_use", "settled", "open_"),
    [
        (None, Pools(), (), {}, {4: None, 6: None}),
        (None, Pools(A), (), {}, {4: A, 6: None}),  # of a release that knew IPv4 alone
        (None, Pools(A), (4,), {4: A}, {6: None}),
        (Pools(A), Pools(), (), {4: A}, {}),  # what is named is all that pods get
        (Pools(B, B6), Pools(A, A6), (), {4: B, 6: B6}, {}),
        (Pools(B, B6), Pools(A, A6), (4, 6), {4: A, 6: A6}, {}),
        (Pools(A, B6), Pools(A), (4,), {4: A, 6: B6}, {}),
        (Pools(None, B6), Pools(A, A6), (4,), {4: A, 6: B6}, {}),
        (Pools(A), Pools(A, A6), (4, 6), {4: A, 6: A6}, {}),
    ],
)
def test_ranges_with_pods_in_them_stay(
    told: Pools | None,
    before: Pools,
    in_use: tuple[int, ...],
    settled: dict[int, object],
    open_: dict[int, object],
) -> None:
    assert plan(told, before, in_use) == (settled, open_)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Pools()),
        ("10.1.0.0/24", Pools(A)),
        ("fd00:1::/64, 10.1.0.0/24", Pools(A, A6)),
        ("fd00:1::/64", Pools(None, A6)),
        ("10.1.0.0/24,10.2.0.0/24", Pools(A)),
    ],
)
def test_the_first_range_of_each_version(text: str, expected: Pools) -> None:
    assert pools.parse("pod_cidr", text) == expected
    assert pools.parse("again", str(expected)) == expected


@pytest.mark.parametrize(
    "cidr", ["10.1.0.0/33", "x", "10.1.0.1/24", "10.1.0.0/31", "fd00::/127", "fd00::1/64"]
)
def test_what_is_no_range_for_pods_is_refused(cidr: str) -> None:
    with pytest.raises(InvalidArgument, match="pod_cidr"):
        pools.parse("pod_cidr", cidr)


@pytest.mark.parametrize("text", ['{"subnet":"10.1.0.0/24","chosen":true,"version":1}'])
def test_the_record_of_a_release_that_knew_ipv4_alone_stays_readable(tmp_path: Path, text: str) -> None:
    (tmp_path / "subnet.json").write_text(text)
    record = subnets.recall(str(tmp_path), "")
    assert record == SubnetRecord("10.1.0.0/24", chosen=True)
    assert record.pools == Pools(A)


def test_the_range_is_remembered(tmp_path: Path) -> None:
    directory, quarantine = str(tmp_path), str(tmp_path / "quarantine")
    assert subnets.recall(directory, quarantine) is None
    record = SubnetRecord("10.88.0.0/16", chosen=True, subnet6="fd00::/64")
    subnets.note(directory, record)
    assert subnets.recall(directory, quarantine) == record


@pytest.mark.parametrize(
    "text", ["{", '{"subnet":"x","chosen":true}', '{"subnet":"","chosen":1,"version":2}']
)
def test_what_cannot_be_read_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "subnet.json").write_text(text)
    assert subnets.recall(str(tmp_path), str(tmp_path / "quarantine")) is None
    assert "set aside" in caplog.text
    assert (tmp_path / "quarantine/network-subnet.json").read_text() == text
