"""Which range pods get."""

import ipaddress
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.network import subnets
from shim.network.subnets import CANDIDATES, SubnetRecord, first_ipv4, pick

NET = ipaddress.IPv4Network


def test_the_first_that_collides_with_nothing() -> None:
    assert pick([]) == NET("10.88.0.0/16")
    assert pick([NET("0.0.0.0/0"), NET("10.88.3.0/24")]) == NET("10.89.0.0/16")
    assert pick([NET("10.0.0.0/8")]) == NET("172.28.0.0/16")


def test_the_one_from_before_goes_first_while_it_collides_with_nothing() -> None:
    before = NET("10.89.0.0/16")
    assert pick([], before) == before
    assert pick([NET("10.89.0.0/24")], before) == NET("10.88.0.0/16")


def test_when_all_collide_it_says_what_to_do() -> None:
    with pytest.raises(FailedPrecondition, match=r"set network\.subnet"):
        pick(CANDIDATES)


@pytest.mark.parametrize(
    ("cidr", "expected"),
    [
        ("", ""),
        ("10.1.0.0/24", "10.1.0.0/24"),
        ("fd00::/64, 10.1.0.0/24", "10.1.0.0/24"),
        ("fd00::/64", ""),
    ],
)
def test_the_first_ipv4_range_of_a_node(cidr: str, expected: str) -> None:
    assert first_ipv4(cidr) == expected


@pytest.mark.parametrize("cidr", ["10.1.0.0/33", "x", "10.1.0.1/24", "10.1.0.0/31"])
def test_what_is_no_range_for_pods_is_refused(cidr: str) -> None:
    with pytest.raises(InvalidArgument, match="pod_cidr"):
        first_ipv4(cidr)


def test_the_range_is_remembered(tmp_path: Path) -> None:
    directory, quarantine = str(tmp_path), str(tmp_path / "quarantine")
    assert subnets.recall(directory, quarantine) is None
    record = SubnetRecord("10.88.0.0/16", chosen=True)
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
