"""A test bed for pods as the launcher starts them, with a real supervisor and real cgroups."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shim.cgroups.driver import CgroupfsDriver
from shim.cgroups.hierarchy import detect
from shim.kernel import proc
from shim.model import ids
from shim.model.cgroup import Place
from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerStatus,
    ExitRecord,
    ProcessRef,
)
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.resources import Resources
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import (
    NamespaceMode,
    NamespaceOptions,
    SandboxSecurity,
    User,
)
from shim.services import device_rules, host_files
from shim.services.launcher import Launcher
from shim.services.node import Settings
from shim.services.sandboxes import namespaces
from shim.services.views import ContainerView
from shim.store.layout import Layout
from shim.supervisor.client import SupervisorClient
from tests.patience import PATIENCE_S

PARENT = f"/cri-shim-test-plan-{os.getpid()}"
PRIVATE = NamespaceOptions(pid=NamespaceMode.CONTAINER)
ENV = (b"PATH=/bin", b"HOME=/", b"HOSTNAME=inside", b"RAW=\xff")


def content_of_log(path: str) -> str:
    """Return what was written, without times and tags."""
    return "".join(line.split(" ", 3)[3] + "\n" for line in Path(path).read_text().splitlines())


def read_all(fd: int) -> str:
    with open(fd, "rb") as file:
        return file.read().decode()


class Bed:
    """A supervisor, cgroups and one busybox image, in directories of the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = Layout(str(directory / "root"), str(directory / "state"))
        self.layout.make()
        self.exits: dict[str, ExitRecord] = {}
        self._changed = asyncio.Event()
        self.client = SupervisorClient(self.layout.state, self._on_exit)
        self.cgroups = CgroupfsDriver(detect(proc.mountinfo()), PARENT)
        self.settings = Settings("node", netns_dir=str(directory / "netns"))
        self.boot_id = proc.boot_id()
        self.running: dict[str, ContainerView] = {}
        self.sandboxes: list[SandboxSpec] = []
        self.paths: list[str] = []
        self.launcher = Launcher(
            self.client,
            self.layout,
            self.settings,
            self.cgroups,
            self.boot_id,
            self._process_of,
            lambda _: [view.spec for view in self.running.values()],
        )
        self.lower = directory / "lower"
        self._make_image()

    def _process_of(self, id_: str) -> ProcessRef | None:
        view = self.running.get(id_)
        return view.status.process if view is not None else None

    def _make_image(self) -> None:
        for name in ("bin", "etc", "tmp"):
            (self.lower / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.lower / "bin/busybox")
        for applet in ("sh", "cat", "id", "ls", "sleep", "mount", "touch", "stat", "mkdir", "unshare", "ps"):
            os.link(self.lower / "bin/busybox", self.lower / "bin" / applet)
        for applet in ("hostname", "readlink", "grep", "kill", "mknod", "chroot", "umount", "ip", "tty"):
            os.link(self.lower / "bin/busybox", self.lower / "bin" / applet)

    def _on_exit(self, record: ExitRecord) -> None:
        self.exits[record.id] = record
        self._changed.set()

    async def exit_of(self, id_: str) -> ExitRecord:
        async with asyncio.timeout(PATIENCE_S):
            while id_ not in self.exits:
                self._changed.clear()
                await self._changed.wait()
        return self.exits[id_]

    async def sandbox(self, options: NamespaceOptions = PRIVATE, **config: Any) -> SandboxSpec:
        id_ = ids.new_id()
        asked = SandboxConfig(
            SandboxMetadata("pod", "uid", "default"),
            hostname="inside",
            security=SandboxSecurity(namespaces=options),
            **config,
        )
        pins = namespaces.plan_pins(self.layout, self.settings.netns_dir, id_, options)
        spec = SandboxSpec(id_, asked, "", time.time_ns(), "cgroupfs", PARENT, "builtin", pins)
        self.sandboxes.append(spec)
        directory = self.layout.sandbox(id_)
        os.makedirs(directory)
        host_files.write(asked, host_files.pod_hostname(asked, "node"), directory)
        namespaces.make_places(self.layout, spec)
        if pins.keys() - {"pid"}:
            for fd in (await self.launcher.namespaces(spec)).values():
                os.close(fd)
        if "pid" in pins:
            path = self.cgroups.path(PARENT, id_)
            self.paths.append(path)
            await self.launcher.init(spec, self.cgroups.create(path, Resources()))
        return spec

    def spec(
        self, sandbox: SandboxSpec, *argv: str, user: User | None = None, cwd: str = "/", **config: Any
    ) -> ContainerSpec:
        id_ = ids.new_id()
        upper, work = (
            self.directory / "snapshots" / id_ / "upper",
            self.directory / "snapshots" / id_ / "work",
        )
        upper.mkdir(parents=True)
        work.mkdir()
        asked = ContainerConfig(ContainerMetadata("c"), ImageSpec("busybox"), **config)
        return ContainerSpec(
            id=id_,
            sandbox_id=sandbox.id,
            config=asked,
            image_id="sha256:0",
            image_ref="sha256:0",
            user=user or User(0, 0, (0,)),
            log_path=str(self.directory / f"{id_}.log"),
            cgroup=self.cgroups.path(PARENT, id_),
            stop_signal=15,
            rootfs=Rootfs((str(self.lower),), str(upper), str(work)),
            argv=argv,
            cwd=cwd,
            env=ENV,
            created_at_ns=time.time_ns(),
        )

    async def start(self, sandbox: SandboxSpec, spec: ContainerSpec) -> ContainerView:
        view = ContainerView(spec, ContainerStatus(resources=spec.config.resources))
        self.paths.append(spec.cgroup)
        place = self.cgroups.create(spec.cgroup, spec.config.resources, device_rules.of_container(spec))
        process = await self.launcher.container(sandbox, view, place)
        view = ContainerView(
            spec, dataclasses.replace(view.status, started_at_ns=time.time_ns(), process=process)
        )
        self.running[spec.id] = view
        return view

    async def output(self, sandbox: SandboxSpec, script: str, **asked: Any) -> str:
        """Run a script as a container's only program, and return what it wrote."""
        spec = self.spec(sandbox, "sh", "-c", "exec 2>&1\n" + script, **asked)
        await self.start(sandbox, spec)
        return await self.log(spec)

    async def log(self, spec: ContainerSpec) -> str:
        """Wait for the end of a container and return what it wrote."""
        await self.exit_of(spec.id)
        await self.client.drain_log(spec.id)
        return content_of_log(spec.log_path)

    async def exec(self, view: ContainerView, *argv: str, place: Place | None = None) -> tuple[str, str, int]:
        id_ = ids.new_id()
        place = place or self.cgroups.create_exec(view.spec.cgroup, time.time_ns())
        fds = await self.launcher.exec(view, id_, argv, place)
        record = await self.exit_of(id_)
        texts = {}
        for name in ("stdout", "stderr"):
            texts[name] = read_all(fds.pop(name))
        assert not fds
        await self.client.forget(id_)
        return texts["stdout"], texts["stderr"], record.exit_code

    async def close(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while children := await self.client.children():
                for child in children:
                    await self.client.kill(child.id)
                    if child.record is not None:
                        await self.client.forget(child.id)
                await asyncio.sleep(0.01)
        await self.client.close(end_if_idle=True)
        for spec in self.sandboxes:
            namespaces.remove_places(self.layout, spec.id)
        for path in self.paths:
            self._remove_cgroup(path)
        hierarchy = detect(proc.mountinfo())
        for mount in hierarchy.mounts():
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(mount + PARENT)

    def _remove_cgroup(self, path: str) -> None:
        for _ in range(100):
            try:
                self.cgroups.remove(path)
            except OSError:
                time.sleep(0.02)  # the kernel lets go of a cgroup a moment after its last process
            else:
                return


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    """A node with nothing on it; what a test has started is gone afterwards."""
    made = Bed(tmp_path)
    await made.client.open()
    try:
        yield made
    finally:
        await made.close()
    left = [info for info in proc.mountinfo() if info.mount_point.startswith(str(tmp_path))]
    assert not left, "a mount is left on the host"
