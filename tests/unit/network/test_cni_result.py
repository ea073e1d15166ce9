"""Results of CNI plugins, in each version."""

from typing import Any

import pytest

from shim.errors import FailedPrecondition
from shim.network import cni_result

CURRENT: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "cni0", "mac": "02:00:00:00:00:01", "mtu": 1500},
        {"name": "veth1", "mac": "02:00:00:00:00:02"},
        {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/n", "socketPath": "/s", "pciID": "1"},
    ],
    "ips": [
        {"address": "192.0.2.9/24", "interface": 0},
        {"address": "fd00::2/64", "gateway": "fd00::1", "interface": 2},
        {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 2},
    ],
    "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "priority": 5}],
    "dns": {"nameservers": ["10.0.0.1"]},
    "extra": {"of": "a plugin"},
}


def of_interface(index: object) -> dict[str, Any]:
    return {"interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.2/24", "interface": index}]}


def test_the_pod_s_interface_counts() -> None:
    result = cni_result.parse(CURRENT)
    assert result.ips == ("fd00::2", "10.0.0.2")
    assert (result.interface, result.host_interface, result.mac) == ("eth0", "veth1", "02:00:00:00:00:03")


def test_results_from_before_0_3_0_are_read() -> None:
    result = cni_result.parse({"ip4": {"ip": "10.0.0.2/24"}, "ip6": {"ip": "fd00::2/64"}})
    assert result.ips == ("10.0.0.2", "fd00::2")


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({}, "no address for eth0"),
        ({"ips": []}, "no address for eth0"),
        ({"ips": [{"address": "nonsense"}]}, "no usable address"),
        ({"ips": [{}]}, "has no address"),
        ({"ips": ["10.0.0.2"]}, "no list of objects"),
        ({"ips": {"address": "10.0.0.2/24"}}, "no list of objects"),
        ({"interfaces": "eth0"}, "no list of objects"),
        (
            of_interface(1),
            "there are 1",
        ),
        (
            of_interface(-1),
            "no index",
        ),
        (
            of_interface("0"),
            "no index",
        ),
        ({"ip4": "10.0.0.2"}, "'ip4' has no address"),
        ({"cniVersion": "7.0.0"}, "nobody here knows"),
    ],
)
def test_a_result_that_is_none_says_why(result: dict[str, Any], why: str) -> None:
    with pytest.raises(FailedPrecondition, match=why):
        cni_result.parse(result)


def test_what_an_older_version_does_not_know_is_left_out() -> None:
    old = cni_result.convert(CURRENT, "1.0.0")
    assert old["interfaces"][0] == {"name": "cni0", "mac": "02:00:00:00:00:01"}
    assert old["interfaces"][2] == {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/n"}
    assert old["routes"] == [{"dst": "0.0.0.0/0"}]
    assert (old["cniVersion"], old["ips"], old["extra"]) == ("1.0.0", CURRENT["ips"], CURRENT["extra"])


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_addresses_had_a_version_until_1_0_0(version: str) -> None:
    old = cni_result.convert(CURRENT, version)
    assert [entry["version"] for entry in old["ips"]] == ["4", "6", "4"]
    back = cni_result.convert(old, "1.1.0")
    assert back["ips"] == CURRENT["ips"]
    assert cni_result.parse(old) == cni_result.parse(CURRENT)


def test_the_first_versions_have_one_address_of_each_family() -> None:
    part = {**CURRENT, "ips": CURRENT["ips"][1:]}
    first = cni_result.convert(part, "0.2.0")
    assert first["ip4"] == {
        "ip": "10.0.0.2/24",
        "gateway": "10.0.0.1",
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    assert first["ip6"] == {"ip": "fd00::2/64", "gateway": "fd00::1", "routes": []}
    back = cni_result.convert(first, "1.0.0")
    assert [entry["address"] for entry in back["ips"]] == ["10.0.0.2/24", "fd00::2/64"]
    assert back["routes"] == [{"dst": "0.0.0.0/0"}]


def test_a_result_without_a_version_is_of_the_one_asked_for() -> None:
    assert cni_result.convert({"ips": []}, "0.4.0") == {"ips": [], "cniVersion": "0.4.0"}
