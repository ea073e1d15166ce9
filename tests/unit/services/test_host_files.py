from pathlib import Path

from shim.model.sandbox import DnsConfig, SandboxConfig, SandboxMetadata
from shim.model.security import NamespaceMode, NamespaceOptions, SandboxSecurity
from shim.services import host_files

METADATA = SandboxMetadata("web", "u1", "default")


def test_resolv_conf_in_the_order_that_containerd_writes() -> None:
    dns = DnsConfig(("10.96.0.10", "1.1.1.1"), ("a.svc", "svc"), ("ndots:5",))
    text = b"search a.svc svc\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
    assert host_files.format_resolv_conf(dns) == text
    assert host_files.format_resolv_conf(DnsConfig()) == b""


def test_on_the_host_network_the_hostname_is_the_nodes() -> None:
    host = SandboxSecurity(namespaces=NamespaceOptions(network=NamespaceMode.NODE))
    assert host_files.pod_hostname(SandboxConfig(METADATA, hostname="web"), "node") == "web"
    assert host_files.pod_hostname(SandboxConfig(METADATA, hostname="web", security=host), "node") == "node"


def test_the_three_files_are_written(tmp_path: Path) -> None:
    hosts, hostname, resolv = (str(tmp_path / name) for name in ("hosts", "hostname", "resolv.conf"))
    config = SandboxConfig(METADATA, dns=DnsConfig(("1.1.1.1",)))
    host_files.write(config, "web", str(tmp_path))
    assert b"localhost" in Path(hosts).read_bytes()
    assert Path(hostname).read_bytes() == b"web\n"
    assert Path(resolv).read_bytes() == b"nameserver 1.1.1.1\n"
    assert Path(resolv).stat().st_mode & 0o777 == 0o644
