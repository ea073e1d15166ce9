"""What a pod network is to the rest: give a sandbox its addresses, take them back, tell if that works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shim.model.network import NetworkResult, PortMapping
from shim.model.sandbox import DnsConfig

POD_INTERFACE = "eth0"


@dataclass(frozen=True, slots=True)
class SetupRequest:
    """A sandbox that wants a network.

    Attributes:
        netns_path: where its network namespace is pinned.
        netlink_fd: a NETLINK_ROUTE socket opened inside that namespace; it stays the caller's. No thread here
            ever enters a namespace, so the built-in network needs it; CNI plugins enter by themselves.
        port_mappings: those with host_port 0 are ignored.
        cgroup_parent: of the pod, for plugins that ask.
    """

    sandbox_id: str
    name: str
    namespace: str
    uid: str
    netns_path: str
    netlink_fd: int | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    hostname: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    dns: DnsConfig | None = None
    cgroup_parent: str = ""


@dataclass(frozen=True, slots=True)
class NetworkCondition:
    """The CRI's NetworkReady condition.

    Attributes:
        notes: what a person should know although pods can be run: one sentence each.
    """

    ready: bool
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()


class Network(Protocol):
    """One way to give pods a network. All calls may be made at once, for different sandboxes."""

    async def setup(self, request: SetupRequest) -> NetworkResult:
        """Give a sandbox its network; what it takes is recorded before it is made.

        Raises:
            ResourceExhausted: no address is free.
            AlreadyExists: another pod has one of the host ports, or the sandbox has a network.
            FailedPrecondition: a process listens on one of the host ports, or no network is configured.
        """

    async def teardown(self, sandbox_id: str, netns_path: str) -> None:
        """Take everything back. Idempotent; the namespace may be gone (``netns_path`` empty or dangling)."""

    async def status(self) -> NetworkCondition:
        """Tell whether a setup would work now."""

    async def reconcile(self, live: set[str]) -> None:
        """Remove what belongs to no live sandbox, and only what was made here."""

    async def update_pod_cidr(self, cidr: str) -> None:
        """Take note of the node's pod address range: one or two of them, with a comma between."""

    async def close(self) -> None:
        """Finish what is under way; pods keep their networks."""
