"""Addresses of pods as the CRI tells them: both versions of IP, the primary one first."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.socket.conftest import running, scratch_directory

pytestmark = pytest.mark.root


def addresses(daemon: Any, id_: str) -> list[str]:
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=id_)
    network = daemon.runtime.PodSandboxStatus(request).status.network
    return [network.ip, *(each.ip for each in network.additional_ips)]


def versions(ips: list[str]) -> list[int]:
    return [ipaddress.ip_address(ip).version for ip in ips]


def test_a_pod_has_both_and_no_wait_for_either(daemon: Any) -> None:
    pod = daemon.run_pod()
    ips = addresses(daemon, pod[0])
    assert versions(ips) == [4, 6]
    container = daemon.run(pod)
    shown = daemon.exec(container, "cat", "/proc/net/if_inet6").split("\n")
    flags = {line.split()[0]: line.split()[4] for line in shown if line.endswith("eth0")}
    own = ipaddress.IPv6Address(ips[1]).packed.hex()
    assert own in flags
    assert not any(
        int(each, 16) & 0x40 for each in flags.values()
    )  # IFA_F_TENTATIVE: it could not be used yet
    assert daemon.exec(container, "cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra") == "0\n"
    daemon.restart()
    assert addresses(daemon, pod[0]) == ips


def test_a_pod_that_turns_ipv6_off_has_ipv4(daemon: Any) -> None:
    config = daemon.pod_config()
    config.linux.sysctls["net.ipv6.conf.all.disable_ipv6"] = "1"
    config.linux.sysctls["net.ipv6.conf.default.disable_ipv6"] = "1"
    assert versions(addresses(daemon, daemon.run_pod(config)[0])) == [4]


def test_host_ports_of_both_versions_of_ip(daemon: Any) -> None:
    mapping = cri.PortMapping(protocol=cri.TCP, container_port=80, host_port=8080)
    id_, _ = daemon.run_pod(daemon.pod_config(port_mappings=[mapping]))
    rules = daemon.in_netns("nft", "list", "ruleset").stdout
    for ip in addresses(daemon, id_):
        assert f"tcp . 8080 : {ip} . 80" in rules
    with pytest.raises(grpc.RpcError) as refused:
        daemon.run_pod(daemon.pod_config(port_mappings=[mapping]))
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert id_ in refused.value.details()


@pytest.mark.parametrize(
    ("what", "mapping"),
    [
        ("cannot lead to a pod", cri.PortMapping(container_port=80, host_port=80, host_ip="::1")),
        ("is no address of this node", cri.PortMapping(container_port=80, host_port=80, host_ip="192.0.2.9")),
        ("is not an IP address", cri.PortMapping(container_port=80, host_port=80, host_ip="::x")),
        ("65536 is not a port", cri.PortMapping(container_port=80, host_port=65536)),
        ("-1 is not a port", cri.PortMapping(container_port=80, host_port=-1)),
        ("0 is not a port", cri.PortMapping(container_port=0, host_port=80)),
        (
            "is named twice",
            (
                cri.PortMapping(container_port=80, host_port=80),
                cri.PortMapping(container_port=81, host_port=80),
            ),
        ),
    ],
)
def test_host_ports_that_cannot_be(daemon: Any, what: str, mapping: Any) -> None:
    before = daemon.settled()
    mappings = list(mapping) if isinstance(mapping, tuple) else [mapping]
    with pytest.raises(grpc.RpcError) as refused:
        daemon.run_pod(daemon.pod_config(port_mappings=mappings))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert what in refused.value.details()
    daemon.until_again(before)


@pytest.mark.parametrize(
    ("what", "dns"),
    [
        ("dns_config.servers", cri.DNSConfig(servers=["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])),
        ("dns_config.servers", cri.DNSConfig(servers=["10.0.0.1 10.0.0.2"])),
        ("dns_config.searches", cri.DNSConfig(searches=[f"d{number}.test" for number in range(33)])),
        ("dns_config.searches", cri.DNSConfig(searches=["x" * 250] * 9)),
        ("dns_config.searches", cri.DNSConfig(searches=["a b"])),
        ("dns_config.options", cri.DNSConfig(options=["ndots:5\nnameserver 6.6.6.6"])),
    ],
)
def test_dns_beyond_what_a_resolver_reads_is_refused(daemon: Any, what: str, dns: cri.DNSConfig) -> None:
    config = daemon.pod_config()
    config.dns_config.CopyFrom(dns)
    with pytest.raises(grpc.RpcError) as refused:
        daemon.run_pod(config)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert what in refused.value.details()


def test_dns_as_a_kubelet_sends_it(daemon: Any) -> None:
    config = daemon.pod_config()
    config.dns_config.servers.extend(["10.96.0.10", "fd00::10", "fe80::1%eth0"])
    config.dns_config.searches.extend(["default.svc.cluster.local", ".", "under_score.test."])
    config.dns_config.options.append("ndots:5")
    pod = daemon.run_pod(config)
    assert daemon.exec(daemon.run(pod), "cat", "/etc/resolv.conf") == (
        "search default.svc.cluster.local . under_score.test.\n"
        "nameserver 10.96.0.10\nnameserver fd00::10\nnameserver fe80::1%eth0\noptions ndots:5\n"
    )


@pytest.fixture(scope="module")
def other() -> Iterator[Any]:
    """A daemon that prefers IPv6, with ranges of its kubelet's."""
    with running(scratch_directory(), '--set=network.ip_pref="ipv6"') as it:
        yield it


def test_the_preferred_version_is_the_primary_one(other: Any) -> None:
    config = cri.RuntimeConfig(network_config=cri.NetworkConfig(pod_cidr="10.7.0.0/24,fd00:7::/64"))
    other.runtime.UpdateRuntimeConfig(cri.UpdateRuntimeConfigRequest(runtime_config=config))
    id_, _ = other.run_pod()
    ips = addresses(other, id_)
    assert versions(ips) == [6, 4]
    assert ipaddress.ip_address(ips[0]) in ipaddress.ip_network("fd00:7::/64")
    assert ipaddress.ip_address(ips[1]) in ipaddress.ip_network("10.7.0.0/24")
    other.restart()
    assert addresses(other, id_) == ips
    other.remove(id_)


def test_what_is_missing_is_told_by_verbose_status(other: Any) -> None:
    def notes() -> list[str]:
        status = other.runtime.Status(cri.StatusRequest(verbose=True))
        assert all(condition.status for condition in status.status.conditions)
        found: list[str] = json.loads(status.info["network"])["notes"]
        return found

    assert notes() == []
    other.end(15)
    other.in_netns("sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    other.start()
    assert notes() == ["pods get no IPv6: IPv6 is off on this node: net.ipv6.conf.all.disable_ipv6 is 1"]
    id_, _ = other.run_pod()
    assert versions(addresses(other, id_)) == [4]
    other.remove(id_)
    assert Path(other.scratch / "daemon.log").read_text().count("pods get no IPv6") == 1
