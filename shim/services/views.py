"""What lists and status calls answer with, and what they are asked by. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shim.model.container import ContainerSpec, ContainerState, ContainerStatus
from shim.model.lifecycle import container_state, sandbox_state
from shim.model.sandbox import SandboxSpec, SandboxState, SandboxStatus
from shim.model.stats import (
    CgroupDetails,
    CgroupUsage,
    CpuStats,
    FilesystemCapacity,
    FilesystemUsage,
    IoStats,
    MemoryStats,
    NetworkStats,
    ProcessStats,
)


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container at one instant."""

    spec: ContainerSpec
    status: ContainerStatus

    @property
    def state(self) -> ContainerState:
        """The state that follows from the timestamps."""
        return container_state(self.status)


@dataclass(frozen=True, slots=True)
class SandboxView:
    """A sandbox at one instant."""

    spec: SandboxSpec
    status: SandboxStatus

    @property
    def state(self) -> SandboxState:
        """The state that follows from the timestamps."""
        return sandbox_state(self.status)

    @property
    def ips(self) -> tuple[str, ...]:
        """The pod's addresses, the primary first; none on the host network or once it is not ready."""
        if self.status.network is None or self.state is not SandboxState.READY:
            return ()
        return self.status.network.ips


@dataclass(frozen=True, slots=True)
class ContainerFilter:
    """All that is given must hold. ``id`` and ``sandbox_id`` may be prefixes; empty and None mean any."""

    id: str = ""
    state: ContainerState | None = None
    sandbox_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def matches(self, view: ContainerView) -> bool:
        """Tell whether a container is asked for; ids are whole here."""
        spec = view.spec
        return (
            (not self.id or spec.id == self.id)
            and (not self.sandbox_id or spec.sandbox_id == self.sandbox_id)
            and (self.state is None or view.state is self.state)
            and has_labels(spec.config.labels, self.labels)
        )


@dataclass(frozen=True, slots=True)
class SandboxFilter:
    """All that is given must hold. ``id`` may be a prefix; empty and None mean any."""

    id: str = ""
    state: SandboxState | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def matches(self, view: SandboxView) -> bool:
        """Tell whether a sandbox is asked for; the id is whole here."""
        return (
            (not self.id or view.spec.id == self.id)
            and (self.state is None or view.state is self.state)
            and has_labels(view.spec.config.labels, self.labels)
        )


@dataclass(frozen=True, slots=True)
class ContainerStatsView:
    """The numbers of a container. None: not known (it does not run, or the kernel does not count it)."""

    spec: ContainerSpec
    cpu: CpuStats | None
    memory: MemoryStats | None
    writable_layer: FilesystemUsage | None
    io: IoStats | None = None


@dataclass(frozen=True, slots=True)
class SandboxStatsView:
    """The numbers of a sandbox and of the containers that run in it. None: not known.

    Attributes:
        timestamp_ns: when the processes were counted; 0 if they were not.
    """

    spec: SandboxSpec
    cpu: CpuStats | None = None
    memory: MemoryStats | None = None
    io: IoStats | None = None
    network: NetworkStats | None = None
    timestamp_ns: int = 0
    processes: int = 0
    containers: tuple[ContainerStatsView, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerMetricsView:
    """What metrics tell of a container that runs.

    Attributes:
        disk_bytes: its writable layer and its logs.
    """

    container: ContainerView
    cgroup: CgroupDetails
    processes: ProcessStats
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class SandboxMetricsView:
    """What metrics tell of a sandbox.

    Attributes:
        cgroup: of the pod, where it has one of its own.
    """

    spec: SandboxSpec
    timestamp_ns: int
    capacity: FilesystemCapacity
    cgroup: CgroupUsage | None
    network: NetworkStats | None
    containers: tuple[ContainerMetricsView, ...]


@dataclass(frozen=True, slots=True)
class SandboxDetails:
    """PodSandboxStatus: the sandbox and the containers in it."""

    sandbox: SandboxView
    containers: tuple[ContainerView, ...]


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The end of an ExecSync.

    Attributes:
        exit_code: 0 to 255; 128 + signal for a death by signal.
        dropped_bytes: output beyond what is kept; it was read and thrown away.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int
    dropped_bytes: int = 0


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Tell whether each wanted label is there with the same value."""
    return all(labels.get(key) == value for key, value in wanted.items())


def whole_id(prefix: str, resolve: Callable[[str], str | None]) -> str:
    """Return the id that a filter's prefix stands for, or the text itself, which then matches nothing."""
    return (resolve(prefix) or prefix) if prefix else ""
