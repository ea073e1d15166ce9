"""CNI configurations, what plugins are given, what they answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.network import PortMapping, Protocol
from shim.model.sandbox import DnsConfig
from shim.network import cni_config
from shim.network.cni_config import Configuration
from shim.network.plugin import SetupRequest

LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}


def request(**changes: Any) -> SetupRequest:
    fields = {"sandbox_id": "ab", "name": "web", "namespace": "default", "uid": "u1", "netns_path": "/n"}
    return SetupRequest(**(fields | changes))


def test_a_single_configuration_is_a_list_of_one() -> None:
    single = {"cniVersion": "0.3.1", "name": "net", "type": "bridge"}
    assert cni_config.parse(json.dumps(single)) == Configuration("net", "0.3.1", (single,))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "names no plugins"),
        ('{"name":"net","plugins":[]}', "names no plugins"),
        ('{"name":"net","plugins":["bridge"]}', "not None"),
        ('{"name":"net","type":"../../bin/sh"}', "must be the name of a program"),
        ('{"name":"net","type":".."}', "must be the name of a program"),
        ('{"type":"bridge"}', "name and cniVersion must be texts"),
    ],
)
def test_what_is_no_configuration_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        cni_config.parse(text)


def test_the_first_that_loads_counts(tmp_path: Path) -> None:
    (tmp_path / "05-broken.conf").write_text("{")
    (tmp_path / "10-net.conflist").write_text(json.dumps(LIST))
    (tmp_path / "20-other.conflist").write_text(json.dumps(LIST | {"name": "other"}))
    (tmp_path / "00-notes.txt").write_text("")
    assert cni_config.find([str(tmp_path / "missing"), str(tmp_path)]).name == "net"


def test_without_one_it_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="a network add-on puts it there"):
        cni_config.find([str(tmp_path)])
    (tmp_path / "05-broken.conf").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"05-broken\.conf: it is not JSON"):
        cni_config.find([str(tmp_path)])


def test_a_plugin_is_told_what_it_declares_to_understand() -> None:
    mappings = (PortMapping(Protocol.UDP, 53, 5353, "192.0.2.1"), PortMapping(Protocol.TCP, 80, 0))
    capabilities = cni_config.plan_capabilities(request(port_mappings=mappings, dns=DnsConfig(("1.2.3.4",))))
    plugin = {"type": "portmap", "capabilities": {"portMappings": True, "bandwidth": True, "dns": False}}
    configuration = Configuration("net", "1.0.0", (plugin,))
    given = json.loads(cni_config.format_input(configuration, plugin, capabilities, {"ips": []}))
    assert given == {
        **plugin,
        "name": "net",
        "cniVersion": "1.0.0",
        "runtimeConfig": {
            "portMappings": [
                {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}
            ]
        },
        "prevResult": {"ips": []},
    }
    alone = json.loads(cni_config.format_input(configuration, {"type": "bridge"}, capabilities, None))
    assert alone == {"type": "bridge", "name": "net", "cniVersion": "1.0.0"}


def test_arguments_cannot_be_smuggled_in() -> None:
    args = cni_config.format_args(request(name="web;K8S_POD_NAMESPACE=kube-system"))
    expected = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=u1"
    assert args == expected


@pytest.mark.parametrize(("version", "expected"), [("0.3.1", False), ("0.4.0", True), ("1.1.0", True)])
def test_del_gets_the_result_since_0_4_0(version: str, expected: bool) -> None:
    assert cni_config.passes_result_to_del(version) is expected


def test_the_pods_interface_counts_and_ipv4_goes_first() -> None:
    result = cni_config.parse_result(
        {
            "interfaces": [
                {"name": "cni0", "mac": "02:00:00:00:00:01"},
                {"name": "veth1", "mac": "02:00:00:00:00:02"},
                {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/n"},
            ],
            "ips": [
                {"address": "192.0.2.9/24", "interface": 0},
                {"address": "fd00::2/64", "interface": 2},
                {"address": "10.0.0.2/24", "interface": 2},
            ],
        }
    )
    assert result.ips == ("10.0.0.2", "fd00::2")
    assert (result.interface, result.host_interface, result.mac) == ("eth0", "veth1", "02:00:00:00:00:03")


def test_results_from_before_0_3_0_are_read() -> None:
    result = cni_config.parse_result({"ip4": {"ip": "10.0.0.2/24"}, "ip6": {"ip": "fd00::2/64"}})
    assert result.ips == ("10.0.0.2", "fd00::2")


@pytest.mark.parametrize("result", [{}, {"ips": []}, {"ips": [{"address": "nonsense"}]}])
def test_a_pod_without_an_address_has_no_network(result: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition, match="address"):
        cni_config.parse_result(result)
