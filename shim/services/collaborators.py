"""What the verbs need of the layers below, as protocols: a test brings its own, the daemon brings the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shim.model.cgroup import CgroupJoin
from shim.model.image import Auth, Image
from shim.model.mount import Rootfs
from shim.model.resources import Resources
from shim.model.stats import CpuStats, FilesystemUsage, MemoryStats
from shim.network.plugin import Network, NetworkCondition
from shim.supervisor.client import Child, ForkRequest
from shim.supervisor.protocol import ChildInfo


class Supervisor(Protocol):
    """The parent of every process (``supervisor.client.SupervisorClient``)."""

    @property
    def connected(self) -> bool:
        """Whether it answers just now; it is started again by itself."""

    async def fork(self, request: ForkRequest) -> Child:
        """Start a process; return when its program runs."""

    async def children(self) -> list[ChildInfo]:
        """Return all that it looks after."""

    async def kill(self, id_: str) -> None:
        """Kill a child and everything in its cgroup. Idempotent."""

    async def forget(self, id_: str) -> None:
        """Drop a child's descriptors and its exit record. Idempotent."""

    async def reopen_log(self, id_: str) -> None:
        """Open the log file of a container again."""

    async def drain(self, id_: str) -> None:
        """Return when what the container has written so far is in its log."""


class Snapshots(Protocol):
    """Writable layers, by container id. Blocking."""

    def prepare(self, container_id: str, image: Image) -> Rootfs:
        """Make a writable layer on top of an image."""

    def remove(self, container_id: str) -> None:
        """Remove a writable layer. Idempotent."""

    def list(self) -> list[str]:
        """Return the ids of the containers that have one."""


class Images(Protocol):
    """The image store (``images.store.ImageStore``)."""

    @property
    def snapshots(self) -> Snapshots:
        """Writable layers."""

    async def pull(self, reference: str, auth: Auth | None, *, handler: str = "") -> Image:
        """Fetch an image."""

    def resolve(self, text: str) -> Image:
        """Return the image with this name, digest, id or prefix of an id."""

    def list(self) -> list[Image]:
        """Return all images."""

    async def remove(self, text: str) -> None:
        """Remove a name or an image. Idempotent."""

    async def load(self, path: str) -> list[Image]:
        """Take in an archive."""

    async def save(self, names: Sequence[str], path: str) -> None:
        """Write an archive."""

    def read_file(self, image: Image, path: str) -> bytes | None:
        """Return a file of an image's layers; None if there is none. Blocking."""

    async def fs_usage(self) -> FilesystemUsage:
        """Return what it takes on disk."""


class Cgroups(Protocol):
    """Cgroups by path below the root of each hierarchy. Blocking, but for the pure ones."""

    @property
    def driver(self) -> str:
        """``cgroupfs`` or ``systemd``."""

    def parent(self, asked: str) -> str:
        """Return the parent in force for a request's cgroup_parent. Pure.

        Raises:
            InvalidArgument: it is no place for a cgroup.
        """

    def path(self, parent: str, id_: str) -> str:
        """Return the cgroup of a container or pod init. Pure."""

    def create(self, path: str, resources: Resources) -> CgroupJoin:
        """Make a cgroup with its limits."""

    def update(self, path: str, resources: Resources) -> None:
        """Change the limits that ``resources`` gives."""

    def create_exec(self, path: str, number: int) -> tuple[CgroupJoin, str]:
        """Make the cgroup of an exec; return how to enter it and the directory that kills it."""

    def kill_dir(self, path: str) -> str:
        """Return the tracking directory of a cgroup. Pure."""

    def kill(self, path: str) -> None:
        """Kill every process in a cgroup. Idempotent."""

    def remove(self, path: str) -> None:
        """Remove a cgroup with those below it. Idempotent."""

    def cpu(self, path: str) -> CpuStats:
        """Read CPU use."""

    def memory(self, path: str) -> MemoryStats:
        """Read memory use."""


class Networks(Protocol):
    """The networks that pods may have (``network.select``)."""

    def kind(self) -> str:
        """Return the kind that a new pod gets: ``builtin`` or ``cni``."""

    def get(self, kind: str) -> Network:
        """Return the network of a kind."""

    async def status(self) -> NetworkCondition:
        """Tell whether a new pod would get a network."""

    async def update_pod_cidr(self, cidr: str) -> None:
        """Take note of the node's pod address range."""

    async def reconcile(self, live: set[str]) -> None:
        """Remove what belongs to no live sandbox."""
