"""Pods as the launcher starts them: what a program in a container, or executed in one, finds around it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from shim.cgroups.driver import CgroupfsDriver
from shim.cgroups.hierarchy import detect
from shim.errors import ExecFailed, FailedPrecondition, ShimError
from shim.kernel import capabilities, proc
from shim.model import ids
from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerStatus,
    Device,
    ExitRecord,
    ProcessRef,
)
from shim.model.image import ImageSpec
from shim.model.mount import Propagation, Rootfs, Volume
from shim.model.resources import Resources
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import (
    Capabilities,
    ContainerSecurity,
    NamespaceMode,
    NamespaceOptions,
    ProfileType,
    SandboxSecurity,
    SecurityProfile,
    User,
)
from shim.services import host_files
from shim.services.launcher import Launcher
from shim.services.node import Settings
from shim.services.sandboxes import namespaces
from shim.services.views import ContainerView
from shim.store.layout import Layout
from shim.supervisor.client import SupervisorClient

pytestmark = pytest.mark.root

PARENT = f"/cri-shim-test-plan-{os.getpid()}"
PRIVATE = NamespaceOptions(pid=NamespaceMode.CONTAINER)
DEFAULT_PROFILE = ContainerSecurity(seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT))
ENV = (b"PATH=/bin", b"HOME=/", b"HOSTNAME=inside", b"RAW=\xff")


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
        self.launcher = Launcher(
            self.client, self.layout, self.settings, self.cgroups, self.boot_id, self._process_of
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
        async with asyncio.timeout(20):
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
            await self.launcher.init(spec, self.cgroups.create(path, Resources()))
        return spec

    def spec(
        self, sandbox: SandboxSpec, *argv: str, user: User | None = None, cwd: str = "/", **config: Any
    ) -> ContainerSpec:
        id_ = ids.new_id()
        upper, work = self.directory / "snapshots" / id_ / "upper", self.directory / "snapshots" / id_ / "work"
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
        place = self.cgroups.create(spec.cgroup, spec.config.resources)
        process = await self.launcher.container(sandbox, view, place)
        view = ContainerView(
            spec, dataclasses.replace(view.status, started_at_ns=time.time_ns(), process=process)
        )
        self.running[spec.id] = view
        return view

    async def output(self, sandbox: SandboxSpec, script: str, **asked: Any) -> str:
        """Run a script as a container's only program, and return what it wrote."""
        spec = self.spec(sandbox, "sh", "-c", script, **asked)
        await self.start(sandbox, spec)
        await self.exit_of(spec.id)
        await self.client.drain_log(spec.id)
        lines = Path(spec.log_path).read_text().splitlines()
        return "".join(line.split(" ", 3)[3] + "\n" for line in lines)

    async def exec(self, view: ContainerView, *argv: str) -> tuple[str, str, int]:
        id_ = ids.new_id()
        place = self.cgroups.create_exec(view.spec.cgroup, time.time_ns())
        fds = await self.launcher.exec(view, id_, argv, place)
        record = await self.exit_of(id_)
        texts = {}
        for name in ("stdout", "stderr"):
            with open(fds.pop(name), "rb") as file:
                texts[name] = file.read().decode()
        assert not fds
        await self.client.forget(id_)
        return texts["stdout"], texts["stderr"], record.exit_code

    async def close(self) -> None:
        for child in await self.client.children():
            await self.client.kill(child.id)
            if child.record is None:
                await self.exit_of(child.id)
            await self.client.forget(child.id)
        await self.client.close(end_if_idle=True)
        for spec in self.sandboxes:
            namespaces.remove_places(self.layout, spec.id)
            self._remove_cgroup(self.cgroups.path(PARENT, spec.id))
        for view in self.running.values():
            self._remove_cgroup(view.spec.cgroup)
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
def run(tmp_path: Path) -> Any:
    """Return a function that runs a coroutine function with a test bed."""

    def runner(body: Any) -> Any:
        async def whole() -> Any:
            bed = Bed(tmp_path)
            await bed.client.open()
            try:
                async with asyncio.timeout(60):
                    return await body(bed)
            finally:
                await bed.close()

        result = asyncio.run(whole())
        mounted = Path("/proc/self/mountinfo").read_text()
        assert str(tmp_path) not in mounted, "a mount is left on the host"
        return result

    return runner


def test_a_container_of_a_pod(run: Any) -> None:
    async def body(bed: Bed) -> None:
        sandbox = await bed.sandbox()
        script = """
            echo $$; hostname; cat /etc/hostname; id; ls /proc/self/fd; ls /dev; echo "$HOSTNAME $HOME"
            ip link show lo; umask; readlink /proc/self/cwd"""
        text = await bed.output(sandbox, script)
        print(text)

    run(body)
