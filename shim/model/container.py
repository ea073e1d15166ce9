"""What a container is: what was asked (config, spec) and what is (status)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from shim.model.edits import Edits
from shim.model.image import ImageSpec
from shim.model.mount import ImageTree, ImageVolume, Rootfs, Volume
from shim.model.resources import Resources
from shim.model.security import Confinement, ContainerSecurity, User, UserNamespace


class ContainerState(enum.IntEnum):
    """As in the CRI."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class ContainerMetadata:
    """(name, attempt) is unique within its sandbox."""

    name: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One environment variable; the value is bytes, since it need not be UTF-8."""

    key: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Device:
    """A host device in the container; permissions are some of ``rwm``."""

    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """ContainerConfig with its Linux part flattened in; ``stop_signal`` is the CRI's number, 0 = default."""

    metadata: ContainerMetadata
    image: ImageSpec
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[EnvVar, ...] = ()
    volumes: tuple[Volume, ...] = ()
    devices: tuple[Device, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: Resources = Resources()
    security: ContainerSecurity = ContainerSecurity()
    stop_signal: int = 0


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Written once, when the container is made.

    Attributes:
        image_id: config digest of the image, ``sha256:…``.
        image_ref: what ContainerStatus reports as image_ref; kept here since the image may go.
        user: resolved against the image's passwd and group files.
        log_path: absolute, or empty where no log is wanted.
        cgroup: path below the root of each hierarchy, ``<cgroup_parent>/<id>``.
        stop_signal: signal number that StopContainer sends first.
        confinement: seccomp and the like, in force; None in records from before it was kept.
        argv, cwd, env: in force, from the image and the request; env entries are ``KEY=value`` as bytes.
        image_trees: of the volumes that are images, in their order.
        image_volumes: those that the image declares, and the request leaves to it.
        userns: the pod's user namespace; None where that is the node's.
        edits: what CDI devices add.
    """

    id: str
    sandbox_id: str
    config: ContainerConfig
    image_id: str
    image_ref: str
    user: User
    log_path: str
    cgroup: str
    stop_signal: int
    rootfs: Rootfs
    argv: tuple[str, ...]
    cwd: str
    env: tuple[bytes, ...] = field(repr=False)
    created_at_ns: int
    image_trees: tuple[ImageTree, ...] = ()
    image_volumes: tuple[ImageVolume, ...] = ()
    userns: UserNamespace | None = None
    confinement: Confinement | None = None
    version: int = 1
    edits: Edits = Edits()


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process for certain: pids are used again, (pid, start time, boot) is not.

    Attributes:
        pid: in the host's pid namespace.
        start_time: field 22 of /proc/PID/stat, in clock ticks since boot.
        boot_id: /proc/sys/kernel/random/boot_id.
    """

    pid: int
    start_time: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """Replaced as a whole. The state follows from the timestamps (``model.lifecycle``).

    Attributes:
        exit_code: 0 to 255; 128 + signal for a death by signal; meaningful once finished.
        reason: ``Completed``, ``Error``, ``OOMKilled``, ``StartError``, ``Unknown``, or empty.
        resources: in force now; differs from the config's after UpdateContainerResources.
        unknown: the record could not be matched with the kernel.
        stop_requested_ns: when StopContainer was first called; 0 before.
    """

    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    process: ProcessRef | None = None
    resources: Resources = Resources()
    delivered: bool = False
    unknown: bool = False
    stop_requested_ns: int = 0
    version: int = 1


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The end of a process, as the supervisor saw it.

    Attributes:
        id: container id, sandbox id (its init), or exec id.
        exit_code: 0 to 255; 128 + signal for a death by signal.
        signal: 0 if it exited by itself.
        oom_kills: how often the kernel's OOM killer struck in its cgroup.
        finished_at_ns: wall clock, ns since 1970.
        source: ``wait`` (reaped), ``stat``, ``pidfd``, ``connector``, or ``unknown`` (255, nobody saw it).
    """

    id: str
    pid: int
    exit_code: int
    signal: int
    oom_kills: int
    finished_at_ns: int
    source: str = "wait"
