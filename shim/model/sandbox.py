"""What a pod sandbox is: what was asked (config, spec) and what is (status)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from shim.model.network import NetworkResult, PortMapping
from shim.model.resources import Resources
from shim.model.security import NamespaceMode, SandboxSecurity, UserNamespace


class SandboxState(enum.IntEnum):
    """As in the CRI."""

    READY = 0
    NOTREADY = 1


@dataclass(frozen=True, slots=True)
class SandboxMetadata:
    """The pod's identity; (name, namespace, uid, attempt) is unique among sandboxes."""

    name: str
    uid: str
    namespace: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """What goes into resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """PodSandboxConfig with its Linux part flattened in; ``None`` means: not given."""

    metadata: SandboxMetadata
    hostname: str = ""
    log_directory: str = ""
    dns: DnsConfig | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    security: SandboxSecurity = SandboxSecurity()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    overhead: Resources | None = None
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Written once, when the sandbox is made.

    Attributes:
        handler: the runtime handler as asked for (may be empty).
        cgroup_driver: ``cgroupfs`` or ``systemd``, in force when it was made.
        cgroup_parent: the parent in force: the kubelet's, or one of our own where none was given.
        network: who gives it an address: ``builtin``, ``cni``, or ``host``.
        pins: namespace kind (``net``, ``ipc``, ``uts``, ``pid``, ``user``) to the path of its bind mount; a
            namespace shared with the node has none.
        process_label, mount_label: of SELinux, for containers that ask for none; empty where it is off.
    """

    id: str
    config: SandboxConfig
    handler: str
    created_at_ns: int
    cgroup_driver: str
    cgroup_parent: str
    network: str
    pins: Mapping[str, str] = field(default_factory=dict)
    process_label: str = ""
    mount_label: str = ""
    version: int = 1

    @property
    def userns(self) -> UserNamespace | None:
        """The user namespace that the pod has for itself; None where that is the node's."""
        asked = self.config.security.namespaces.userns
        return asked if asked is not None and asked.mode is NamespaceMode.POD else None


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """Replaced as a whole. The state follows from the timestamps (``model.lifecycle``).

    Attributes:
        ready_at_ns: when everything of it was made; 0 while it is being made or if that failed.
        stopped_at_ns: when it was stopped or found dead; 0 before.
        delivered: whether a caller was told its id (a retry is ALREADY_EXISTS after that).
        pending: names of undo or stop steps that failed and are to be tried again, such as ``network``.
        boot_id: of the boot it was made in; namespaces do not outlive it.
    """

    ready_at_ns: int = 0
    stopped_at_ns: int = 0
    delivered: bool = False
    network: NetworkResult | None = None
    pending: tuple[str, ...] = ()
    boot_id: str = ""
    overhead: Resources | None = None
    resources: Resources | None = None
    version: int = 1
