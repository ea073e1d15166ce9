"""Whether a PodSandboxConfig can be carried out at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from shim.errors import InvalidArgument
from shim.model.network import PortMapping
from shim.model.sandbox import SandboxConfig
from shim.model.security import NamespaceMode, NamespaceOptions, SandboxSecurity
from shim.runtime import plan_sysctls
from shim.services.confinement import references, selinux
from shim.services.validate import userns, values

MAX_HOSTNAME: Final = 64  # HOST_NAME_MAX of Linux
MAX_PORT: Final = 65535
# What a kubelet leaves of a resolv.conf, and a resolver reads of one (resolv.conf(5)).
MAX_DNS_SERVERS: Final = 3
MAX_DNS_SEARCHES: Final = 32
MAX_DNS_SEARCH_CHARACTERS: Final = 2048


def check(config: SandboxConfig) -> None:
    """Check everything that can be told without looking at the node.

    Raises:
        InvalidArgument: names the first field that is wrong, and why.
    """
    metadata = config.metadata
    values.name("metadata.name", metadata.name)
    values.name("metadata.namespace", metadata.namespace)
    values.name("metadata.uid", metadata.uid)
    values.map_size("labels", config.labels, values.MAX_LABELS_BYTES)
    values.map_size("annotations", config.annotations, values.MAX_ANNOTATIONS_BYTES)
    values.name("hostname", config.hostname, required=False, longest=MAX_HOSTNAME)
    if "/" in config.hostname or " " in config.hostname:
        raise InvalidArgument(f"hostname {config.hostname!r} is not a host name")
    values.path("log_directory", config.log_directory, absolute=True)
    _dns(config)
    for mapping in config.port_mappings:
        _port(mapping)
    plan_sysctls.check(config.sysctls, set(_own_kinds(config.security.namespaces)))
    if config.overhead is not None:
        values.resources("overhead", config.overhead, whole=False)
    if config.resources is not None:
        values.resources("resources", config.resources, whole=False)
    _namespaces(config)
    _security(config.security)


def _dns(config: SandboxConfig) -> None:
    if config.dns is None:
        return
    dns = config.dns
    for field, words, most in (
        ("servers", dns.servers, MAX_DNS_SERVERS),
        ("searches", dns.searches, MAX_DNS_SEARCHES),
        ("options", dns.options, len(dns.options)),
    ):
        values.one_line(f"dns_config.{field}", words)
        if len(words) > most:
            raise InvalidArgument(f"dns_config.{field} has {len(words)} entries; at most {most} are accepted")
        for word in words:
            if len(word.split()) != 1:
                raise InvalidArgument(f"dns_config.{field} {word!r} is not one word")
    size = len(" ".join(dns.searches))
    if size > MAX_DNS_SEARCH_CHARACTERS:
        raise InvalidArgument(
            f"dns_config.searches have {size} characters; at most {MAX_DNS_SEARCH_CHARACTERS} are accepted"
        )


def _port(mapping: PortMapping) -> None:
    if not 0 <= mapping.host_port <= MAX_PORT:
        raise InvalidArgument(f"host_port {mapping.host_port} is not a port")
    if mapping.host_port and not 1 <= mapping.container_port <= MAX_PORT:
        raise InvalidArgument(f"container_port {mapping.container_port} is not a port")
    if mapping.host_ip:
        try:
            ipaddress.ip_address(mapping.host_ip)
        except ValueError:
            raise InvalidArgument(f"host_ip {mapping.host_ip!r} is not an IP address") from None


def _own_kinds(options: NamespaceOptions) -> Iterator[str]:
    """Yield the kinds of namespaces with sysctls that the pod is going to have for itself."""
    if options.network is not NamespaceMode.NODE:
        yield from ("net", "uts")
    if options.ipc is not NamespaceMode.NODE:
        yield "ipc"


def _security(security: SandboxSecurity) -> None:
    """Check the form only: there is no process of the sandbox's own to confine."""
    values.identity(security.run_as_user, security.run_as_group, security.supplemental_groups)
    references.by_path("seccomp_profile_path", security.seccomp_profile_path)
    for field, profile in (("seccomp", security.seccomp), ("apparmor", security.apparmor)):
        if profile is not None:
            references.check(field, profile)
    selinux.check(security.selinux)


def _namespaces(config: SandboxConfig) -> None:
    options = config.security.namespaces
    for kind, mode in (("network", options.network), ("ipc", options.ipc)):
        if mode not in (NamespaceMode.POD, NamespaceMode.NODE):
            raise InvalidArgument(f"namespace mode {mode.name} is not possible for {kind}: it is POD or NODE")
    if options.pid is NamespaceMode.TARGET:
        raise InvalidArgument("namespace mode TARGET is not possible for a sandbox: it names a container")
    if options.target_id:
        raise InvalidArgument("target_id is given for a sandbox: only a container has a target")
    userns.check_sandbox(options)
