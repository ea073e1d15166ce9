"""What CNI plugins are told."""

import json
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.model.network import PortMapping, Protocol
from shim.model.sandbox import DnsConfig
from shim.network import cni_input
from shim.network.cni_config import Configuration
from shim.network.plugin import SetupRequest

CAPABILITIES = (
    *("portMappings", "bandwidth", "ipRanges", "dns", "aliases", "mac", "infinibandGUID", "cgroupPath"),
    "io.kubernetes.cri.pod-annotations",
)


def request(**changes: Any) -> SetupRequest:
    fields = {"sandbox_id": "ab", "name": "web", "namespace": "default", "uid": "u1", "netns_path": "/n"}
    return SetupRequest(**(fields | changes))


def test_a_plugin_is_told_what_it_declares_to_understand() -> None:
    mappings = (PortMapping(Protocol.UDP, 53, 5353, "192.0.2.1"), PortMapping(Protocol.TCP, 80, 0))
    capabilities = cni_input.plan_capabilities(
        request(port_mappings=mappings, dns=DnsConfig(("1.2.3.4",))), (), CAPABILITIES
    )
    plugin = {
        "type": "portmap",
        "snat": True,
        "cni.dev/attachments": "not from a file",
        "capabilities": {"portMappings": True, "bandwidth": True, "dns": False},
    }
    configuration = Configuration("net", "1.0.0", (plugin,))
    given = json.loads(cni_input.format_input(configuration, plugin, capabilities, {"ips": []}))
    assert given == {
        "type": "portmap",
        "snat": True,
        "name": "net",
        "cniVersion": "1.0.0",
        "runtimeConfig": {
            "portMappings": [
                {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}
            ]
        },
        "prevResult": {"ips": []},
    }
    alone = json.loads(cni_input.format_input(configuration, {"type": "bridge"}, capabilities, None))
    assert alone == {"type": "bridge", "name": "net", "cniVersion": "1.0.0"}


def test_every_capability_has_its_shape() -> None:
    pod = request(
        hostname="web-0",
        cgroup_parent="/kubepods/pod1",
        dns=DnsConfig(("1.2.3.4",), ("a.b",), ("ndots:5",)),
        port_mappings=(PortMapping(Protocol.SCTP, 1, 2),),
        annotations={
            cni_input.INGRESS: "10M",
            cni_input.EGRESS: "1Mi",
            cni_input.MAC: "02:00:00:00:00:AA",
            cni_input.INFINIBAND_GUID: "c2:11:22:33:44:55:66:77",
        },
    )
    assert cni_input.plan_capabilities(pod, ("10.0.0.0/24",), CAPABILITIES) == {
        "portMappings": [{"hostPort": 2, "containerPort": 1, "protocol": "sctp"}],
        "bandwidth": {
            "ingressRate": 10_000_000,
            "ingressBurst": 2147483647,
            "egressRate": 1048576,
            "egressBurst": 2147483647,
        },
        "ipRanges": [[{"subnet": "10.0.0.0/24"}]],
        "dns": {"servers": ["1.2.3.4"], "searches": ["a.b"], "options": ["ndots:5"]},
        "aliases": ["web", "web-0"],
        "mac": "02:00:00:00:00:aa",
        "infinibandGUID": "c2:11:22:33:44:55:66:77",
        "cgroupPath": "/kubepods/pod1",
        "io.kubernetes.cri.pod-annotations": dict(pod.annotations),
    }
    assert cni_input.plan_capabilities(request(name=""), (), CAPABILITIES) == {}


@pytest.mark.parametrize(
    ("annotation", "capability", "value"),
    [
        (cni_input.INGRESS, "bandwidth", "999"),
        (cni_input.INGRESS, "bandwidth", "-10M"),
        (cni_input.EGRESS, "bandwidth", "1E"),
        (cni_input.EGRESS, "bandwidth", "ten"),
        (cni_input.MAC, "mac", "02:00:00:00:00"),
        (cni_input.MAC, "mac", "02:00:00:00:00:0g"),
        (cni_input.INFINIBAND_GUID, "infinibandGUID", "02:00:00:00:00:01"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_refused_where_it_counts(
    annotation: str, capability: str, value: str
) -> None:
    pod = request(annotations={annotation: value})
    with pytest.raises(InvalidArgument, match=f"annotation {annotation} must be .*{value!r}"):
        cni_input.plan_capabilities(pod, (), [capability])
    assert cni_input.plan_capabilities(pod, (), ["dns"]) == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1000", 1000),
        ("1k", 1000),
        ("1.5M", 1_500_000),
        (".5Gi", 2**29),
        ("1e6", 10**6),
        ("1E3", 1000),
        ("2500m", 3),
        ("12e-1", 2),
        ("7E", 7 * 10**18),
        ("1Ei", 2**60),
        ("", None),
        ("1 k", None),
        ("0x10", None),
        ("1K", None),
        ("\u0661", None),
        ("9" * 5000, None),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str, value: int | None) -> None:
    assert cni_input.parse_quantity(text) == value


def test_arguments_cannot_be_smuggled_in() -> None:
    args = cni_input.format_args(request(name="web;K8S_POD_NAMESPACE=kube-system"))
    expected = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=u1"
    assert args == expected


def test_gc_names_what_is_to_stay_under_both_names() -> None:
    configuration = Configuration("net", "1.1.0", ({"type": "bridge"},))
    given = json.loads(cni_input.format_gc(configuration, {"type": "bridge"}, [("ab", "eth0")]))
    valid = [{"containerID": "ab", "ifname": "eth0"}]
    assert given["cni.dev/valid-attachments"] == given["cni.dev/attachments"] == valid
    status = json.loads(cni_input.format_status(configuration, {"type": "bridge", "x": 1}))
    assert status == {"type": "bridge", "x": 1, "name": "net", "cniVersion": "1.1.0"}
