"""A node whose collaborators live in memory, so that the verbs can be tested without a kernel below them."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeCgroups, FakeSnapshots, FakeTraffic

from shim.errors import NotFound
from shim.model.cgroup import Place
from shim.model.container import ContainerConfig, ContainerMetadata, ExitRecord, ProcessRef
from shim.model.image import Auth, Image, ImageConfig, ImageSpec, Platform
from shim.model.network import NetworkResult
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.stats import FilesystemCapacity, FilesystemUsage
from shim.model.streams import StreamOptions
from shim.network.plugin import NetworkCondition, SetupRequest
from shim.services import exits
from shim.services.containers.create import create_container
from shim.services.containers.start import start_container
from shim.services.node import Node, Settings
from shim.services.pools import Pools
from shim.services.records import Records
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.views import ContainerView
from shim.store.containers import ContainerStore
from shim.store.layout import Layout
from shim.store.sandboxes import SandboxStore
from shim.supervisor.protocol import CONTAINER, EXEC, INIT, ChildInfo

PATIENCE_S = 60.0

IMAGE = Image(
    id="sha256:" + "1" * 64,
    repo_tags=("docker.io/library/app:latest",),
    repo_digests=("docker.io/library/app@sha256:" + "2" * 64,),
    chain_ids=("sha256:" + "3" * 64,),
    diff_ids=("sha256:" + "3" * 64,),
    size_bytes=1000,
    config=ImageConfig(user="app", cmd=("serve",)),
    platform=Platform("linux", "amd64"),
)


class FakeImages:
    def __init__(self) -> None:
        self.snapshots = FakeSnapshots()
        self.images = [IMAGE]

    async def pull(
        self, reference: str, auth: Auth | None, *, progress: object = None, handler: str = ""
    ) -> Image:
        return IMAGE

    def resolve(self, text: str) -> Image:
        for image in self.images:
            if text in (image.id, *image.repo_tags, *image.repo_digests):
                return image
        raise NotFound("image", text)

    async def remove(self, text: str) -> None:
        self.images.clear()

    async def load(self, path: str) -> Sequence[Image]:
        return self.images

    async def save(self, names: Sequence[str], path: str) -> None:
        return None

    def read_file(self, image: Image, path: str) -> bytes | None:
        return b"app:x:1000:1000::/home/app:/bin/sh\n" if path == "/etc/passwd" else None

    def has_path(self, image: Image, path: str) -> bool:
        return path.strip("/") == "etc"

    async def fs_usage(self) -> FilesystemUsage:
        return FilesystemUsage(1, "/", 1, 1)

    def capacity(self) -> FilesystemCapacity:
        return FilesystemCapacity("/dev/vda1", 1000, 100, 90)

    def list(self) -> list[Image]:
        return self.images


class FakeNetwork:
    def __init__(self) -> None:
        self.up: dict[str, SetupRequest] = {}
        self.setup_error: Exception | None = None
        self.teardown_error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.reconciled: set[str] | None = None
        self.takes_over = False
        self.handed_over: list[str] = []

    async def setup(self, request: SetupRequest) -> NetworkResult:
        if self.gate is not None:
            await self.gate.wait()
        if self.setup_error is not None:
            raise self.setup_error
        self.up[request.sandbox_id] = request
        return NetworkResult((f"10.88.0.{len(self.up) + 1}",))

    async def teardown(self, sandbox_id: str, netns_path: str) -> None:
        if self.teardown_error is not None:
            raise self.teardown_error
        self.up.pop(sandbox_id, None)

    async def status(self) -> NetworkCondition:
        return NetworkCondition(True)

    async def reconcile(self, live: set[str]) -> None:
        self.reconciled = live

    async def update_pod_cidr(self, cidr: str) -> None:
        return None

    async def close(self) -> None:
        return None

    def kind(self) -> str:
        return "builtin"

    def get(self, kind: str) -> FakeNetwork:
        return self

    def hand_over(self, kind: str, sandbox_id: str) -> bool:
        if self.takes_over:
            self.handed_over.append(sandbox_id)
        return self.takes_over

    async def check(self, kind: str, sandbox_id: str) -> str:
        return "ok"

    def details(self) -> dict[str, Any]:
        return {"kind": self.kind()}


@dataclass
class World:
    """Supervisor and launcher at once: what runs, and how it ends."""

    loop: asyncio.AbstractEventLoop
    node: Node | None = None
    running: dict[str, ChildInfo] = field(default_factory=dict)
    cgroup_of: dict[str, str] = field(default_factory=dict)
    start_error: Exception | None = None
    signals: list[tuple[int, int]] = field(default_factory=list)
    obeys_signals: bool = True
    starts: int = 0
    exec_output: bytes = b"hello\n"
    exec_hangs: bool = False
    connected: bool = True
    losses: int = 0
    forgotten: list[str] = field(default_factory=list)
    exec_gate: asyncio.Event | None = None
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    attach_error: Exception | None = None
    draining: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)
    far: dict[str, int] = field(default_factory=dict)  # the far ends of streams, for the test to use
    kept: dict[str, int] = field(default_factory=dict)  # what is held for a container
    closed_inputs: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    # Supervisor

    async def children(self) -> list[ChildInfo]:
        return list(self.running.values())

    async def kill(self, id_: str) -> None:
        self.end(id_, 137, 9)

    async def forget(self, id_: str) -> None:
        self.forgotten.append(id_)

    async def reopen_log(self, id_: str) -> None:
        return None

    async def drain_log(self, id_: str) -> None:
        await self.draining()

    async def attach(self, id_: str, sockets: Mapping[str, int]) -> None:
        if self.attach_error is not None:
            raise self.attach_error
        self.far |= {name: os.dup(fd) for name, fd in sockets.items()}

    async def close_stdin(self, id_: str) -> None:
        self.closed_inputs.append(id_)

    def duplicate(self, id_: str, name: str) -> int | None:
        return os.dup(self.kept[name]) if name in self.kept else None

    # Launcher

    async def namespaces(self, spec: SandboxSpec) -> dict[str, int]:
        read, write = os.pipe()
        os.close(write)
        return {"netlink": read}

    async def interface_sysctls(self, spec: SandboxSpec) -> None:
        self.sysctls = spec.config.sysctls

    async def init(self, spec: SandboxSpec, place: Place) -> int:
        return self._run(spec.id, INIT, place).pid

    async def container(self, sandbox: SandboxSpec, view: ContainerView, place: Place) -> ProcessRef:
        if self.start_error is not None:
            raise self.start_error
        child = self._run(view.spec.id, CONTAINER, place)
        return ProcessRef(child.pid, child.start_time, "boot")

    async def exec(
        self,
        view: ContainerView,
        exec_id: str,
        argv: tuple[str, ...],
        place: Place,
        streams: StreamOptions | None = None,
        go: asyncio.Future[None] | None = None,
    ) -> dict[str, int]:
        if self.start_error is not None:
            raise self.start_error
        if self.exec_gate is not None:
            await self.exec_gate.wait()
        if go is not None and streams is not None:
            ends = self._exec_with(exec_id, place, streams)
            dead = asyncio.ensure_future(self.let_go.wait())
            await asyncio.wait((go, dead), return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            if go.cancelled():
                self.end(exec_id, 128)
            return ends
        if streams is not None:
            return self._exec_with(exec_id, place, streams)
        read, write = os.pipe()
        os.write(write, self.exec_output)
        os.close(write)
        self._run(exec_id, EXEC, place)
        if not self.exec_hangs:
            self.end(exec_id, 7)
        return {"stdout": read}

    def _exec_with(self, exec_id: str, place: Place, streams: StreamOptions) -> dict[str, int]:
        self._run(exec_id, EXEC, place)
        if streams.tty:
            master, self.far["tty"] = os.openpty()
            return {"tty": master}
        ends = {}
        for name in ("stdin", "stdout", "stderr"):
            if getattr(streams, name):
                read, write = os.pipe()
                ends[name], self.far[name] = (write, read) if name == "stdin" else (read, write)
        return ends

    async def sockets(self, spec: SandboxSpec, count: int) -> dict[str, int]:
        self.batches.append(count)
        await asyncio.sleep(0.01)
        if self.start_error is not None:
            raise self.start_error
        return {
            f"inet {number}": socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()
            for number in range(count)
        }

    # The kernel's part

    def _run(self, id_: str, kind: str, place: Place) -> ChildInfo:
        self.starts += 1
        self.running[id_] = ChildInfo(id_, kind, 1000 + self.starts, self.starts)
        self.cgroup_of[id_] = place.path
        return self.running[id_]

    def end(self, id_: str, exit_code: int = 0, signal: int = 0, oom_kills: int = 0) -> None:
        child = self.running.pop(id_, None)
        if child is not None and self.node is not None:
            exits.on_exit(self.node, ExitRecord(id_, child.pid, exit_code, signal, oom_kills, 10**18))

    def kill_cgroup(self, path: str) -> None:
        """Called in a thread of the pool."""
        for id_, cgroup in list(self.cgroup_of.items()):
            if cgroup.startswith(path):
                self.loop.call_soon_threadsafe(self.end, id_, 137, 9)

    def send_signal(self, process: ProcessRef, number: int) -> None:
        self.signals.append((process.pid, number))
        for child in list(self.running.values()):
            if child.pid == process.pid and self.obeys_signals:
                self.end(child.id, 128 + number, number)


def open_node(
    tmp_path: Path, world: World, network: FakeNetwork, images: FakeImages, cgroups: FakeCgroups
) -> Node:
    layout = Layout(str(tmp_path / "root"), str(tmp_path / "state"))
    layout.make()
    pools = Pools()
    node = Node(
        settings=Settings("node", netns_dir=str(tmp_path / "netns")),
        layout=layout,
        boot_id="boot",
        records=Records(SandboxStore(layout), ContainerStore(layout), pools.records),
        images=images,
        networks=network,
        cgroups=cgroups,
        supervisor=world,
        launcher=world,
        pools=pools,
        traffic=FakeTraffic(),
        send_signal=world.send_signal,
    )
    world.node = node
    cgroups.world = world
    return node


@dataclass
class Bench:
    """A node with its fakes, and short words for what most tests do."""

    tmp_path: Path
    world: World
    network: FakeNetwork
    images: FakeImages
    cgroups: FakeCgroups
    node: Node

    def sandbox(self, name: str = "web", **changes: object) -> SandboxConfig:
        return SandboxConfig(SandboxMetadata(name, "u1", "default"), **changes)  # type: ignore[arg-type]

    def container(self, name: str = "app", **changes: object) -> ContainerConfig:
        image = ImageSpec("docker.io/library/app:latest")
        return ContainerConfig(ContainerMetadata(name), image, **changes)  # type: ignore[arg-type]

    async def running(self, **config: object) -> str:
        """Return the id of a container that runs in a pod of its own."""
        sandbox = await run_pod_sandbox(self.node, self.sandbox())
        id_ = await create_container(self.node, sandbox, self.container(**config))
        await start_container(self.node, id_)
        return id_

    async def until(self, condition: Callable[[], object]) -> None:
        """Let other tasks and threads go on until something is true; what lasts an instant may be missed."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.001)

    def hold_timers(self, delay_s: float) -> list[Callable[[], object]]:
        """Call nothing from now on that is to be called after so long; return a list of it, which grows."""
        loop, held = asyncio.get_running_loop(), list[Callable[[], object]]()
        call_later = loop.call_later

        def hold(
            delay: float, callback: Callable[..., object], *args: Any, **more: Any
        ) -> asyncio.TimerHandle:
            if delay == delay_s:
                held.append(functools.partial(callback, *args))
                delay = 3600.0
            return call_later(delay, callback, *args, **more)

        loop.call_later = hold  # type: ignore[method-assign, assignment]
        return held

    async def restart(self, boot_id: str = "boot") -> Node:
        """Open the same directories with a new node, as the next daemon does; processes go on."""
        self.world.node = None
        await self.node.close()
        self.node = open_node(self.tmp_path, self.world, self.network, self.images, self.cgroups)
        self.node.boot_id = boot_id
        await self.node.records.load()
        return self.node


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    world, network, images, cgroups = (
        World(asyncio.get_running_loop()),
        FakeNetwork(),
        FakeImages(),
        FakeCgroups(),
    )
    made = Bench(
        tmp_path, world, network, images, cgroups, open_node(tmp_path, world, network, images, cgroups)
    )
    yield made
    await made.node.close()
    for fd in (*world.far.values(), *world.kept.values()):
        os.close(fd)
