import dataclasses
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.model.network import PortMapping, Protocol
from shim.model.resources import Resources
from shim.model.sandbox import DnsConfig, SandboxConfig, SandboxMetadata
from shim.model.security import NamespaceMode, NamespaceOptions, SandboxSecurity, UserNamespace
from shim.services.validate import sandbox

GOOD = SandboxConfig(SandboxMetadata("web", "u1", "default"), hostname="web", log_directory="/var/log/pods/x")


def test_what_a_kubelet_sends_is_accepted() -> None:
    sandbox.check(GOOD)
    sandbox.check(
        dataclasses.replace(
            GOOD,
            dns=DnsConfig(("10.96.0.10", "fe80::1%eth0"), ("default.svc.cluster.local",), ("ndots:5",)),
            port_mappings=(PortMapping(Protocol.TCP, 80, 8080, "127.0.0.1"), PortMapping(Protocol.UDP, 0, 0)),
            annotations={"big": "x" * 256 * 1024},
            sysctls={"net.ipv4.ip_unprivileged_port_start": "0", "net/ipv4/conf/eth0.1/rp_filter": "1"},
            resources=Resources(cpu_quota_us=-1, memory_limit_bytes=-1),
        )
    )


def _namespaces(**modes: Any) -> SandboxSecurity:
    return SandboxSecurity(namespaces=NamespaceOptions(**modes))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metadata": SandboxMetadata("", "u1", "default")}, "metadata.name"),
        ({"metadata": SandboxMetadata("web", "", "default")}, "metadata.uid"),
        ({"metadata": SandboxMetadata("web", "u1", "")}, "metadata.namespace"),
        ({"metadata": SandboxMetadata("w" * 254, "u1", "default")}, "metadata.name"),
        ({"metadata": SandboxMetadata("w\neb", "u1", "default")}, "control characters"),
        ({"labels": {"a": "x" * 10_000_000}}, "labels take"),
        ({"annotations": {"a": "x" * 10_000_000}}, "annotations take"),
        ({"hostname": "h" * 65}, "hostname"),
        ({"hostname": "a/b"}, "hostname"),
        ({"log_directory": "logs"}, "log_directory"),
        ({"log_directory": "/var/log/../../etc"}, r"'\.\.'"),
        ({"log_directory": "/a\0b"}, "NUL"),
        ({"dns": DnsConfig(("1.1.1.1\nnameserver 6.6.6.6",))}, "dns_config.servers"),
        ({"port_mappings": (PortMapping(Protocol.TCP, 80, 70000),)}, "host_port"),
        ({"port_mappings": (PortMapping(Protocol.TCP, -1, 80),)}, "container_port"),
        ({"port_mappings": (PortMapping(Protocol.TCP, 80, 80, "localhost"),)}, "host_ip"),
        ({"sysctls": {"../../etc/passwd": "x"}}, "sysctl"),
        ({"sysctls": {"kernel..x": "1"}}, "sysctl"),
        ({"resources": Resources(cpu_shares=-2)}, "cpu_shares"),
        ({"overhead": Resources(memory_limit_bytes=-2)}, "memory_limit"),
        ({"security": _namespaces(network=NamespaceMode.CONTAINER)}, "network"),
        ({"security": _namespaces(ipc=NamespaceMode.TARGET)}, "ipc"),
        ({"security": _namespaces(pid=NamespaceMode.TARGET)}, "TARGET"),
        ({"security": _namespaces(userns=UserNamespace(NamespaceMode.POD))}, "mappings"),
    ],
)
def test_what_can_never_work_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        sandbox.check(dataclasses.replace(GOOD, **change))
