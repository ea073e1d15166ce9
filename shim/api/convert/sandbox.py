"""Pod sandboxes."""

from __future__ import annotations

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api.convert import check, security
from shim.api.convert.resources import decode_resources, encode_resources
from shim.model import sandbox
from shim.model.network import PortMapping, Protocol
from shim.services.views import SandboxView


def decode_metadata(message: cri.PodSandboxMetadata) -> sandbox.SandboxMetadata:
    """Return whose sandbox it is."""
    return sandbox.SandboxMetadata(
        name=message.name,
        uid=message.uid,
        namespace=message.namespace,
        attempt=message.attempt,
    )


def encode_metadata(value: sandbox.SandboxMetadata) -> cri.PodSandboxMetadata:
    """Return whose sandbox it is, as a message."""
    return cri.PodSandboxMetadata(
        name=value.name, uid=value.uid, namespace=value.namespace, attempt=value.attempt
    )


def _decode_port(message: cri.PortMapping) -> PortMapping:
    return PortMapping(
        protocol=check.member(Protocol, message.protocol, "port_mappings.protocol"),
        container_port=message.container_port,
        host_port=message.host_port,
        host_ip=message.host_ip,
    )


def decode_sandbox_config(message: cri.PodSandboxConfig) -> sandbox.SandboxConfig:
    """Return what is asked of a sandbox.

    Raises:
        InvalidArgument: it has no metadata, or a field cannot be true.
    """
    if not message.HasField("metadata"):
        raise errors.InvalidArgument("config.metadata is missing: a sandbox needs a name")
    linux = message.linux
    return sandbox.SandboxConfig(
        metadata=decode_metadata(message.metadata),
        hostname=message.hostname,
        log_directory=message.log_directory,
        dns=sandbox.DnsConfig(
            servers=tuple(message.dns_config.servers),
            searches=tuple(message.dns_config.searches),
            options=tuple(message.dns_config.options),
        )
        if message.HasField("dns_config")
        else None,
        port_mappings=tuple(_decode_port(each) for each in message.port_mappings),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        cgroup_parent=linux.cgroup_parent,
        security=security.decode_sandbox_security(linux.security_context),
        sysctls=dict(linux.sysctls),
        overhead=decode_resources(linux.overhead) if linux.HasField("overhead") else None,
        resources=decode_resources(linux.resources) if linux.HasField("resources") else None,
    )


def encode_sandbox_config(value: sandbox.SandboxConfig) -> cri.PodSandboxConfig:
    """Return what was asked of a sandbox, as a message."""
    dns = value.dns
    return cri.PodSandboxConfig(
        metadata=encode_metadata(value.metadata),
        hostname=value.hostname,
        log_directory=value.log_directory,
        dns_config=None
        if dns is None
        else cri.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options),
        port_mappings=[
            cri.PortMapping(
                protocol=check.wire(each.protocol),
                container_port=each.container_port,
                host_port=each.host_port,
                host_ip=each.host_ip,
            )
            for each in value.port_mappings
        ],
        labels=value.labels,
        annotations=value.annotations,
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent=value.cgroup_parent,
            security_context=security.encode_sandbox_security(value.security),
            sysctls=value.sysctls,
            overhead=None if value.overhead is None else encode_resources(value.overhead),
            resources=None if value.resources is None else encode_resources(value.resources),
        ),
    )


def encode_sandbox(spec: sandbox.SandboxSpec, state: sandbox.SandboxState) -> cri.PodSandbox:
    """Return a sandbox as it stands in a list."""
    return cri.PodSandbox(
        id=spec.id,
        metadata=encode_metadata(spec.config.metadata),
        state=check.wire(state),
        created_at=spec.created_at_ns,
        labels=spec.config.labels,
        annotations=spec.config.annotations,
        runtime_handler=spec.handler,
    )


def encode_sandbox_status(view: SandboxView) -> cri.PodSandboxStatus:
    """Return a sandbox with all that a kubelet asks about.

    A pod on the node's network has no address of its own; the kubelet fills in the node's.
    """
    spec, config, ips = view.spec, view.spec.config, view.ips
    return cri.PodSandboxStatus(
        id=spec.id,
        metadata=encode_metadata(config.metadata),
        state=check.wire(view.state),
        created_at=spec.created_at_ns,
        network=cri.PodSandboxNetworkStatus(
            ip=ips[0] if ips else "", additional_ips=[cri.PodIP(ip=ip) for ip in ips[1:]]
        ),
        linux=cri.LinuxPodSandboxStatus(
            namespaces=cri.Namespace(options=security.encode_namespaces(config.security.namespaces))
        ),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=spec.handler,
    )
