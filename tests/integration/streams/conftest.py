"""A node in the test's own process, in a network namespace of its own, with real containers."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import shutil
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shim.daemon.config import CgroupConfig, Config, NetworkConfig, RegistryConfig
from shim.daemon.wiring import open_node
from shim.kernel import namespaces
from shim.model.container import ContainerConfig, ContainerMetadata
from shim.model.image import ImageSpec
from shim.model.sandbox import SandboxConfig, SandboxMetadata
from shim.model.security import ContainerSecurity, NamespaceMode, NamespaceOptions, SandboxSecurity
from shim.services.containers.create import create_container
from shim.services.containers.start import start_container
from shim.services.containers.stop import stop_container
from shim.services.images.load import load_images
from shim.services.node import Node
from shim.services.sandboxes.remove import remove_pod_sandbox
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.stop import stop_pod_sandbox
from shim.services.streams import NodeStreams
from shim.store.layout import Layout
from shim.supervisor import forks


def _socket_tests() -> Any:
    """Return the module that knows of images and daemons."""
    path = Path(__file__).parent.parent / "socket" / "conftest.py"
    spec = importlib.util.spec_from_file_location("socket_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


daemons = _socket_tests()


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Have this thread, and those it starts, in a network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        fd = os.open(f"/run/netns/{netns}", os.O_RDONLY)
        namespaces.setns(fd, namespaces.CLONE_NEWNET)
        os.close(fd)
        yield
    finally:
        namespaces.setns(before, namespaces.CLONE_NEWNET)
        os.close(before)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def read(fd: int | None, until: Callable[[bytes], bool] | None = None, seconds: float = 20) -> bytes:
    """Read until something was seen, or to the end."""
    assert fd is not None
    loop, data = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(seconds):
        while until is None or not until(bytes(data)):
            try:
                chunk = os.read(fd, 1 << 16)
            except BlockingIOError:
                ready = asyncio.Event()
                loop.add_reader(fd, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_reader(fd)
                continue
            except OSError:  # EIO of a terminal
                break
            if not chunk:
                break
            data += chunk
    return bytes(data)


async def write(fd: int | None, data: bytes, seconds: float = 60) -> None:
    """Write all."""
    assert fd is not None
    loop, view = asyncio.get_running_loop(), memoryview(data)
    async with asyncio.timeout(seconds):
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                ready = asyncio.Event()
                loop.add_writer(fd, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_writer(fd)


@pytest.fixture
def io() -> Any:
    return types.SimpleNamespace(read=read, write=write)


class Bed:
    """A node, and short words for what most tests do."""

    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.config = Config(
            root=str(daemon.root),
            state=str(daemon.state),
            cgroup=CgroupConfig(driver="cgroupfs", parent=daemon.parent),
            network=NetworkConfig(bridge=daemon.bridge, netns_dir=f"{daemon.scratch}/netns", mode="builtin"),
            registry=RegistryConfig(config_path=()),
        )
        self.layout = Layout(self.config.root, self.config.state)
        self.layout.make()
        self.node: Node
        self.streams: NodeStreams
        self._names = itertools.count(1)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Bed]:
        async with open_node(self.config, self.layout) as self.node:
            self.streams = NodeStreams(self.node)
            yield self

    async def pod(self, *, host_network: bool = False) -> str:
        name = f"pod-{next(self._names)}"
        options = NamespaceOptions(
            pid=NamespaceMode.CONTAINER,
            network=NamespaceMode.NODE if host_network else NamespaceMode.POD,
        )
        config = SandboxConfig(
            SandboxMetadata(name, f"uid-{name}", "test"),
            hostname="" if host_network else name,
            log_directory=f"{self.daemon.scratch}/logs/{name}",
            security=SandboxSecurity(namespaces=options),
        )
        return await run_pod_sandbox(self.node, config)

    async def container(self, pod: str, script: str = "exec sleep 1000", **fields: Any) -> str:
        name = f"c{next(self._names)}"
        options = NamespaceOptions(pid=NamespaceMode.CONTAINER)
        config = ContainerConfig(
            ContainerMetadata(name),
            ImageSpec(daemons.IMAGE),
            command=("sh", "-c", script),
            log_path=f"{name}.log",
            security=fields.pop("security", ContainerSecurity(namespaces=options)),
            **fields,
        )
        id_ = await create_container(self.node, pod, config)
        await start_container(self.node, id_)
        return id_

    async def running(self, script: str = "exec sleep 1000", **fields: Any) -> str:
        return await self.container(await self.pod(), script, **fields)

    async def stop(self, id_: str, timeout_s: float = 0) -> None:
        await stop_container(self.node, id_, timeout_s)

    def log(self, id_: str) -> list[str]:
        path = Path(self.node.records.container(id_).spec.log_path)
        return [line.split(" ", 3)[3] for line in path.read_text().splitlines()]

    async def until(self, true: Callable[[], object], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)

    def exec_cgroups(self) -> list[str]:
        return [
            at
            for mount in Path("/sys/fs/cgroup").iterdir()
            for at, _, _ in os.walk(f"{mount}{self.daemon.parent}")
            if "/exec-" in at
        ]

    def helpers(self) -> dict[str, int]:
        alike = self.alike()
        (supervisor,) = (pid for pid, parent in alike.items() if parent not in alike)
        (logger,) = self.daemon.pids_of("shim.supervisor.logger")
        return {"supervisor": supervisor, "logger": logger}

    def alike(self) -> dict[int, int]:
        """Return the supervisor and its forks that wait for work, with the parent of each."""
        found = {}
        for pid in self.daemon.pids_of("shim.supervisor.main"):
            with contextlib.suppress(OSError):  # it has ended just now
                found[pid] = parent_of(pid)
        return found

    def descriptors(self) -> dict[str, list[str]]:
        """What each process has open."""
        found = {}
        for name, pid in (self.helpers() | {"daemon": os.getpid()}).items():
            opened = []
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    opened.append(os.readlink(f"/proc/{pid}/fd/{fd}").split("[")[0])
            found[name] = sorted(opened)
        return found

    def memory(self, name: str) -> int:
        """Return the private memory of a helper in KiB."""
        text = Path(f"/proc/{self.helpers()[name]}/smaps_rollup").read_text()
        return sum(
            int(line.split()[1]) for line in text.splitlines() if line.startswith(("Private_", "Anonymous"))
        )

    @asynccontextmanager
    async def nothing_left(self) -> AsyncIterator[None]:
        """Show that what is done within leaves no descriptor, cgroup, waiter or task."""
        await self.quiet()
        before, tasks = self.descriptors(), len(asyncio.all_tasks())
        yield
        await self.quiet()
        await self.until(lambda: len(asyncio.all_tasks()) <= tasks)
        with contextlib.suppress(TimeoutError):
            await self.until(lambda: not self.more_than(before), 5)
        assert not self.more_than(before)

    def more_than(self, before: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return what is open beyond what was; a pod that was removed may have let go of something since."""
        after = self.descriptors()
        more = {name: list((Counter(after[name]) - Counter(before[name])).elements()) for name in before}
        return {name: opened for name, opened in more.items() if opened}

    async def quiet(self) -> None:
        """Wait until no exec is left, and the supervisor has its spare processes again."""
        await self.until(lambda: not self.exec_cgroups())
        await self.until(lambda: len(self.alike()) == 1 + forks._SPARES)
        await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncIterator[Bed]:
    daemon = daemons.Daemon(daemons.scratch_directory())
    try:
        daemons.make_image(daemon.scratch / "image.tar")
        with inside(daemon.netns):
            async with Bed(daemon).opened() as it:
                await load_images(it.node, str(daemon.scratch / "image.tar"))
                await remove_pods(it)
                yield it
                await remove_pods(it)
    finally:
        daemon.kill()
        shutil.rmtree(daemon.scratch, ignore_errors=True)


@pytest.fixture
def daemon() -> Iterator[Any]:
    """A daemon in a process of its own, to be killed; ``bed_of`` then opens what it left."""
    with_image = daemons.Daemon(daemons.scratch_directory())
    try:
        daemons.make_image(with_image.scratch / "image.tar")
        with_image.start()
        with_image.command("image", "load", "-i", str(with_image.scratch / "image.tar"))
        yield with_image
    finally:
        with_image.kill()
        shutil.rmtree(with_image.scratch, ignore_errors=True)


@pytest.fixture
def bed_of() -> Callable[[Any], AbstractAsyncContextManager[Bed]]:
    @asynccontextmanager
    async def opened(daemon: Any) -> AsyncIterator[Bed]:
        with inside(daemon.netns):
            async with Bed(daemon).opened() as it:
                try:
                    yield it
                finally:
                    await remove_pods(it)

    return opened


async def remove_pods(bed: Bed) -> None:
    for view in list(bed.node.records.sandboxes()):
        await stop_pod_sandbox(bed.node, view.spec.id)
        await remove_pod_sandbox(bed.node, view.spec.id)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def no_pods_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    yield
    if "bed" in request.fixturenames:
        await remove_pods(request.getfixturevalue("bed"))
