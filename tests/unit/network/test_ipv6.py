"""IPv6 of a node: what stands in its way, what is set so that it forwards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition
from shim.network import ipv6

Make = Callable[..., str]


@pytest.fixture
def node(tmp_path: Path) -> Make:
    """Return what makes a place with switches: {"all/forwarding": "0"}."""

    def make(**switches: str) -> str:
        base = {"all/disable_ipv6": "0", "default/disable_ipv6": "0", "all/forwarding": "0"}
        for name, value in (
            base | {name.replace("__", "/"): value for name, value in switches.items()}
        ).items():
            path = tmp_path / "net/ipv6/conf" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value + "\n")
        return str(tmp_path)

    return make


def read(place: str, name: str) -> str:
    return (Path(place) / "net/ipv6/conf" / name).read_text().strip()


def test_a_usual_node_lacks_nothing(node: Make) -> None:
    assert ipv6.find_lack(1500, node()) == ""


def test_what_is_missing_is_said(node: Make, tmp_path: Path) -> None:
    assert "the kernel has no IPv6" in ipv6.find_lack(1500, str(tmp_path))
    assert "net.ipv6.conf.all.disable_ipv6 is 1" in ipv6.find_lack(1500, node(all__disable_ipv6="1"))
    place = node(all__disable_ipv6="0", default__disable_ipv6="1")
    assert "net.ipv6.conf.default.disable_ipv6 is 1" in ipv6.find_lack(1500, place)
    assert "MTU of 1279" in ipv6.find_lack(1279, node(default__disable_ipv6="0"))


def test_a_node_that_begins_to_forward_goes_on_listening_to_its_routers(node: Make) -> None:
    place = node(eth0__accept_ra="1", eth1__accept_ra="0", default__accept_ra="1", all__accept_ra="1")
    ipv6.forward(place)
    assert read(place, "all/forwarding") == "1"
    names = ("eth0", "eth1", "default", "all")
    assert [read(place, f"{name}/accept_ra") for name in names] == ["2", "0", "2", "1"]


def test_a_node_that_forwards_already_is_left_as_it_is(node: Make) -> None:
    place = node(eth0__accept_ra="1", all__forwarding="1")
    ipv6.forward(place)
    assert read(place, "eth0/accept_ra") == "1"


def test_a_switch_that_cannot_be_set_is_named(node: Make, tmp_path: Path) -> None:
    place = node()
    path = tmp_path / "net/ipv6/conf/all/forwarding"
    path.unlink()
    path.mkdir()
    with pytest.raises(FailedPrecondition, match=r"cannot set .*/all/forwarding to 1: Is a directory"):
        ipv6.forward(place)
