"""What the verbs need of the layers below, as protocols: a test can bring its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from typing import Any, Protocol

from shim.images.counters import Counters
from shim.images.explain import Explanation
from shim.images.probe import Step
from shim.images.progress import PullState, Report
from shim.images.verify import Verdict
from shim.model.cgroup import DeviceRule, Place
from shim.model.container import ProcessRef
from shim.model.image import Auth, Image
from shim.model.mount import ImageTree, Rootfs
from shim.model.resources import Resources
from shim.model.sandbox import SandboxSpec
from shim.model.security import UserNamespace
from shim.model.stats import (
    CgroupDetails,
    CgroupUsage,
    CpuStats,
    FilesystemCapacity,
    FilesystemUsage,
    NetworkStats,
)
from shim.model.streams import StreamOptions
from shim.network.plugin import Network, NetworkCondition
from shim.services.views import ContainerView
from shim.supervisor.protocol import ChildInfo


class Supervisor(Protocol):
    """The parent of every process (``supervisor.client.SupervisorClient``), less what starts them."""

    @property
    def connected(self) -> bool:
        """Whether it answers just now; it is started again by itself."""

    @property
    def losses(self) -> int:
        """How often it was lost since the daemon started."""

    async def children(self) -> list[ChildInfo]:
        """Return all that it looks after."""

    async def kill(self, id_: str) -> None:
        """Kill a child and everything in its cgroup. Idempotent."""

    async def forget(self, id_: str) -> None:
        """Drop a child's descriptors and its exit record. Idempotent."""

    async def reopen_log(self, id_: str) -> None:
        """Open the log file of a container again."""

    async def drain_log(self, id_: str) -> None:
        """Return when what a container has written until now is in its log file."""

    async def attach(self, id_: str, sockets: Mapping[str, int]) -> None:
        """Have what a container writes from now on copied to sockets, which stay the caller's."""

    async def close_stdin(self, id_: str) -> None:
        """Let a container read the end of its input, for good. Idempotent."""

    def duplicate(self, id_: str, name: str) -> int | None:
        """Return a copy, the caller's, of what is kept for a child under a name; None: nothing is."""


class Launcher(Protocol):
    """Starts processes: plans them and has the supervisor fork them (``launcher``)."""

    async def namespaces(self, spec: SandboxSpec) -> dict[str, int]:
        """Make and pin the namespaces of a pod; return sockets opened inside, by name, to be closed."""

    async def interface_sysctls(self, spec: SandboxSpec) -> None:
        """Set the sysctls of the pod's interfaces, which are there by now."""

    async def init(self, spec: SandboxSpec, place: Place) -> int:
        """Start the first process of a pod's PID namespace, and pin that; return its pid.

        With a user namespace the caller pins it.
        """

    async def container(self, sandbox: SandboxSpec, view: ContainerView, place: Place) -> ProcessRef:
        """Start a container; return when its program runs."""

    async def exec(
        self,
        view: ContainerView,
        exec_id: str,
        argv: tuple[str, ...],
        place: Place,
        streams: StreamOptions = ...,
        go: asyncio.Future[None] | None = ...,
    ) -> dict[str, int]:
        """Start a process in a container; return our ends of its streams, by name, to be closed.

        With ``go`` all is made ready, and the program is executed once that is done.
        """

    async def sockets(self, spec: SandboxSpec, count: int) -> dict[str, int]:
        """Open TCP sockets in the network namespace of a pod; return them by name, to be closed."""


class Snapshots(Protocol):
    """Writable layers, by container id. Blocking."""

    def prepare(
        self,
        container_id: str,
        image: Image,
        mounted: Sequence[Image] = (),
        userns: UserNamespace | None = None,
    ) -> Rootfs:
        """Make a writable layer on top of an image; keep the layers of others that are volumes."""

    def image_tree(self, container_id: str, number: int, image: Image) -> ImageTree:
        """Return how one of those is mounted."""

    def volume(self, container_id: str, number: int) -> str:
        """Make a directory that goes with the writable layer; return its path."""

    def remove(self, container_id: str) -> None:
        """Remove a writable layer. Idempotent."""

    def list(self) -> list[str]:
        """Return the ids of the containers that have one."""

    def usage(self, container_id: str) -> FilesystemUsage | None:
        """Return what a writable layer took when it was last measured."""


class Images(Protocol):
    """The image store (``images.store.ImageStore``)."""

    @property
    def snapshots(self) -> Snapshots:
        """Writable layers."""

    async def pull(
        self, reference: str, auth: Auth | None, *, progress: Report | None = None, handler: str = ""
    ) -> Image:
        """Fetch an image."""

    def pulls(self) -> Sequence[PullState]:
        """Return how far each pull under way is."""

    async def explain(self, reference: str, auth: Auth | None) -> Explanation:
        """Return which hosts a pull would ask, and why."""

    def probe(self, reference: str, auth: Auth | None) -> AsyncIterator[Step]:
        """Try a pull host by host and yield the time of its steps."""

    @property
    def counters(self) -> Counters:
        """Numbers of pulls since the store was made."""

    def resolve(self, text: str) -> Image:
        """Return the image with this name, digest, id or prefix of an id."""

    async def remove(self, text: str) -> None:
        """Remove a name or an image. Idempotent."""

    async def load(self, path: str, name: str = "", *, pinned: bool = False) -> Sequence[Image]:
        """Take in an archive."""

    def failed_archives(self) -> Mapping[str, str]:
        """Return why archives of the watched directory could not be loaded, by file name."""

    def verify(
        self, names: Sequence[str], *, repair: bool = False, auth: Auth | None = None
    ) -> AsyncIterator[Verdict]:
        """Check layers on disk, mend them if asked to."""

    async def save(self, names: Sequence[str], path: str) -> None:
        """Write an archive."""

    def read_file(self, image: Image, path: str) -> bytes | None:
        """Return a file of an image's layers; None if there is none. Blocking."""

    def has_path(self, image: Image, path: str) -> bool:
        """Tell whether there is anything at a path in an image. Blocking."""

    async def fs_usage(self) -> FilesystemUsage:
        """Return what images and writable layers take on disk."""

    def capacity(self) -> FilesystemCapacity:
        """Return what the file system of images and writable layers has. Blocking."""

    def list(self) -> list[Image]:
        """Return all images."""


class Cgroups(Protocol):
    """Cgroups by path below the root of each hierarchy. Blocking, but for the pure ones.

    Numbers are read, and ``keep_open`` is called, in one thread alone.
    """

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

    def check(self, resources: Resources) -> None:
        """Check what can be told without a cgroup. Pure.

        Raises:
            InvalidArgument, FailedPrecondition: a limit makes no sense, or not on this node.
        """

    def create(self, path: str, resources: Resources, devices: Sequence[DeviceRule] = ()) -> Place:
        """Make a cgroup with its limits; with devices it may do what the rules say, without rules nothing."""

    def settle(self, path: str) -> None:
        """Let a new cgroup live by its process alone, which is there or never comes. Idempotent, quick."""

    def update(self, path: str, resources: Resources) -> None:
        """Change the limits that ``resources`` gives."""

    def create_exec(self, path: str, number: int) -> Place:
        """Make the cgroup of an exec below a container's; where it cannot be made: the container's own."""

    def remove_exec(self, path: str, number: int) -> bool:
        """Remove the cgroup of an exec unless something runs in it; return whether it is gone."""

    def kill(self, path: str) -> None:
        """Kill every process in a cgroup. Idempotent."""

    def remove(self, path: str) -> None:
        """Remove a cgroup with those below it, and parents of ours that nothing is left in. Idempotent."""

    def remove_unknown(self, known: frozenset[str]) -> None:
        """Kill and remove cgroups below our own parent that belong to no id in ``known``."""

    def oom_watch(self, path: str) -> dict[str, int]:
        """Return descriptors that tell of the OOM killer, by the names the supervisor knows; to be closed."""

    def cpu(self, path: str) -> CpuStats:
        """Read CPU time alone. KernelError once the cgroup is gone."""

    def usage(self, path: str) -> CgroupUsage:
        """Read what statistics tell, of any cgroup. KernelError once it is gone."""

    def details(self, path: str) -> CgroupDetails:
        """Read what metrics tell, of any cgroup. KernelError once it is gone."""

    def processes(self, path: str) -> list[int]:
        """Return the pids in a cgroup and below; none once it is gone."""

    def keep_open(self, paths: Container[str]) -> None:
        """Close what is open of all other cgroups to read numbers, and what was not read lately."""


class Traffic(Protocol):
    """The counters of pods' interfaces (``network.traffic.TrafficReader``). Blocking; for one thread."""

    def read(self, netns_path: str, default: str) -> NetworkStats:
        """Return the counters of every interface but loopback; KernelError where the namespace is gone."""

    def close(self) -> None:
        """Let go of what is open."""


class Networks(Protocol):
    """The networks that pods may have (``network.select``)."""

    def kind(self) -> str:
        """Return the kind that a new pod gets: ``builtin`` or ``cni``."""

    def get(self, kind: str) -> Network:
        """Return the network of a kind."""

    async def status(self) -> NetworkCondition:
        """Tell whether a new pod would get a network."""

    def hand_over(self, kind: str, sandbox_id: str) -> bool:
        """Have a network go on by itself with a teardown that failed; False: it keeps no record for that."""

    async def check(self, kind: str, sandbox_id: str) -> str:
        """Return whether a pod's network is as it was made: ``ok``, what is wrong, or why none asked."""

    def details(self) -> dict[str, Any]:
        """Return what a person wants to know, from memory alone."""

    async def update_pod_cidr(self, cidr: str) -> None:
        """Take note of the node's pod address range."""

    async def reconcile(self, live: set[str]) -> None:
        """Remove what belongs to no live sandbox."""
