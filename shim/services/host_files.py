"""hosts, hostname and resolv.conf of a pod: what the pod's containers find in /etc."""

from __future__ import annotations

import os
from typing import Final

from shim.kernel import files
from shim.model.sandbox import DnsConfig, SandboxConfig
from shim.model.security import NamespaceMode

HOSTS: Final = "hosts"
HOSTNAME: Final = "hostname"
RESOLV_CONF: Final = "resolv.conf"

_DEFAULT_HOSTS: Final = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def format_resolv_conf(dns: DnsConfig) -> bytes:
    """Return the text of resolv.conf; empty if nothing is configured."""
    lines = []
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    lines += [f"nameserver {server}" for server in dns.servers]
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return "".join(line + "\n" for line in lines).encode()


def pod_hostname(config: SandboxConfig, node_hostname: str) -> str:
    """Return the name that containers see: the node's on the host network, else the pod's."""
    if config.security.namespaces.network is NamespaceMode.NODE:
        return node_hostname
    return config.hostname or node_hostname


def write(config: SandboxConfig, hostname: str, directory: str, label: str = "") -> None:
    """Write the three files into ``directory``; without a DNS configuration the node's resolv.conf is copied.

    Blocking. They need not survive a crash: a sandbox that is being made is thrown away then.

    Args:
        config: of the sandbox.
        hostname: what containers see.
        directory: of the sandbox.
        label: of SELinux; empty for none.
    """
    resolv_conf = format_resolv_conf(config.dns) if config.dns is not None else b""
    _write(directory, HOSTS, _read("/etc/hosts") or _DEFAULT_HOSTS)
    _write(directory, HOSTNAME, hostname.encode() + b"\n")
    _write(directory, RESOLV_CONF, resolv_conf or _read("/etc/resolv.conf"))
    if label:
        for name in (HOSTS, HOSTNAME, RESOLV_CONF):
            files.set_label(os.path.join(directory, name), label)


def _write(directory: str, name: str, data: bytes) -> None:
    files.write_atomic(os.path.join(directory, name), data, mode=0o644)


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:
        return file.read()
