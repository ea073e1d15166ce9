"""The launcher with a supervisor in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from shim.errors import ExecFailed, FailedPrecondition, InvalidArgument, NotFound
from shim.model.cgroup import CgroupJoin, Place
from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerStatus,
    ProcessRef,
)
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import (
    Capabilities,
    ContainerSecurity,
    NamespaceMode,
    NamespaceOptions,
    ProfileType,
    SecurityProfile,
    User,
)
from shim.model.streams import StreamOptions
from shim.runtime.plan import decode_plan
from shim.runtime.plan_sockets import plan_sockets
from shim.runtime.steps_process import Identity
from shim.services.confinement.resolve import profiles_of
from shim.services.launcher import Launcher
from shim.services.node import Settings
from shim.services.views import ContainerView
from shim.store.layout import Layout
from shim.supervisor.client import Child, ForkRequest
from shim.supervisor.protocol import ChildInfo

PLACE = Place("/pods/c", CgroupJoin((), "/cg/pods/c"), "/cg/pods/c")
PINS = {"net": "/pins/net", "ipc": "/pins/ipc", "uts": "/pins/uts"}


class Supervisor:
    """Notes what it is to fork."""

    def __init__(self) -> None:
        self.requests: list[ForkRequest] = []
        self.warnings: tuple[str, ...] = ()
        self.error: Exception | None = None
        self.gate: asyncio.Future[None] | None = None

    async def fork(self, request: ForkRequest) -> Child:
        self.requests.append(request)
        if self.gate is not None:
            await asyncio.wait((self.gate,))
        if self.error is not None:
            raise self.error
        return Child(ChildInfo(request.id, request.kind, 42, 43), {"stdout": 5, "stderr": 6}, self.warnings)


class Cgroups:
    def __init__(self) -> None:
        self.settled: list[str] = []

    def oom_watch(self, path: str) -> dict[str, int]:
        return {"memory_events": 99}

    def settle(self, path: str) -> None:
        self.settled.append(path)


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor()


@pytest.fixture
def cgroups() -> Cgroups:
    return Cgroups()


@pytest.fixture
def made(supervisor: Supervisor, cgroups: Cgroups, tmp_path: Path) -> Launcher:
    known = {"other": ProcessRef(7, 8, "boot"), "old": ProcessRef(7, 8, "earlier boot")}
    return Launcher(
        cast("Any", supervisor),
        Layout(str(tmp_path / "root"), "/state"),
        Settings("node", log_line_bytes=100),
        cast("Any", cgroups),
        "boot",
        cast("Callable[[str], ProcessRef | None]", known.get),
        lambda _: (),
    )


def sandbox_of(**pins: str) -> SandboxSpec:
    asked = SandboxConfig(SandboxMetadata("p", "u", "n"), hostname="inside")
    return SandboxSpec("s", asked, "", 0, "cgroupfs", "/pods", "builtin", pins)


def view_of(process: ProcessRef | None = None, **config: Any) -> ContainerView:
    spec = ContainerSpec(
        id="c",
        sandbox_id="s",
        config=ContainerConfig(ContainerMetadata("c"), ImageSpec("i"), **config),
        image_id="i",
        image_ref="i",
        user=User(1000, 1001),
        log_path="/log/c",
        cgroup="/pods/c",
        stop_signal=15,
        rootfs=Rootfs(("/layer",), "/upper", "/work"),
        argv=("program",),
        cwd="/",
        env=(),
        created_at_ns=0,
    )
    return ContainerView(spec, ContainerStatus(process=process))


def security(**options: Any) -> ContainerSecurity:
    return ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER), **options)


async def test_a_container_is_asked_for_with_all_that_is_kept(made: Launcher, supervisor: Supervisor) -> None:
    view = view_of(security=security(), stdin=True)
    assert await made.container(sandbox_of(**PINS), view, PLACE) == ProcessRef(42, 43, "boot")
    (request,) = supervisor.requests
    assert (request.id, request.kind, request.kill_dir) == ("c", "container", "/cg/pods/c")
    assert (request.stdio.stdin, request.stdio.stdout, request.stdio.tty) == (True, True, False)
    assert (request.stdio.uid, request.stdio.gid) == (1000, 1001)
    assert request.log is not None
    assert (request.log.path, request.log.tty, request.log.max_line) == ("/log/c", False, 100)
    assert request.fds == {"memory_events": 99}
    decode_plan(request.plan)


async def test_namespaces_have_no_streams_and_their_sockets_come_back(
    made: Launcher, supervisor: Supervisor
) -> None:
    assert await made.namespaces(sandbox_of(**PINS)) == {"stdout": 5, "stderr": 6}
    (request,) = supervisor.requests
    assert (request.kind, request.stdio.stdout, request.log) == ("namespaces", False, None)


async def test_an_init_is_killed_by_its_cgroup(made: Launcher, supervisor: Supervisor) -> None:
    await made.init(sandbox_of(**PINS, pid="/pins/pid"), PLACE)
    (request,) = supervisor.requests
    assert (request.id, request.kind, request.kill_dir) == ("s", "init", "/cg/pods/c")


async def test_an_exec_gives_its_outputs(made: Launcher, supervisor: Supervisor) -> None:
    view = view_of(ProcessRef(7, 8, "boot"), security=security())
    assert await made.exec(view, "e", ("x",), PLACE) == {"stdout": 5, "stderr": 6}
    (request,) = supervisor.requests
    assert (request.id, request.kind, request.log) == ("e", "exec", None)


@pytest.mark.parametrize("process", [None, ProcessRef(7, 8, "earlier boot")])
async def test_an_exec_needs_a_process(made: Launcher, process: ProcessRef | None) -> None:
    with pytest.raises(FailedPrecondition, match="does not run"):
        await made.exec(view_of(process), "e", ("x",), PLACE)


async def test_a_process_that_has_just_ended_is_said_so(made: Launcher, supervisor: Supervisor) -> None:
    supervisor.error = NotFound("process", "7")
    with pytest.raises(FailedPrecondition, match="just ended"):
        await made.exec(view_of(ProcessRef(7, 8, "boot")), "e", ("x",), PLACE)


async def test_errors_of_the_child_pass(made: Launcher, supervisor: Supervisor, cgroups: Cgroups) -> None:
    supervisor.error = ExecFailed("exec: no", 126)
    with pytest.raises(ExecFailed):
        await made.container(sandbox_of(**PINS), view_of(security=security()), PLACE)
    assert cgroups.settled == [PLACE.path]


@pytest.mark.parametrize("target", ["nobody", "old"])
async def test_a_target_must_run(made: Launcher, target: str) -> None:
    asked = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.TARGET, target_id=target))
    with pytest.raises(FailedPrecondition, match="does not run"):
        await made.container(sandbox_of(**PINS), view_of(security=asked), PLACE)


async def test_a_running_target_is_joined(made: Launcher, supervisor: Supervisor) -> None:
    asked = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.TARGET, target_id="other"))
    await made.container(sandbox_of(**PINS), view_of(security=asked), PLACE)
    assert b'["JoinProcess",7,8,["pid"],false]' in supervisor.requests[0].plan


async def test_who_may_trace_starts_when_nothing_is_on_its_way_into_the_pod(
    made: Launcher, supervisor: Supervisor
) -> None:
    tracer = view_of(security=security(capabilities=Capabilities(add=("SYS_PTRACE",))))
    go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    supervisor.gate = go
    ready = made.exec(view_of(ProcessRef(7, 8, "boot"), security=security()), "e", ("x",), PLACE, go=go)
    waiting = asyncio.create_task(ready)
    await asyncio.sleep(0)
    await made.container(sandbox_of(**PINS), tracer, PLACE)
    assert go.cancelled()
    assert waiting.done()
    assert [request.id for request in supervisor.requests] == ["e", "c"]


async def test_the_same_warning_is_one_only_once(
    made: Launcher, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.warnings = ("limit",)
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    for _ in range(2):
        await made.namespaces(sandbox_of(**PINS))
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.DEBUG]


async def identity(made: Launcher, supervisor: Supervisor, asked: ContainerSecurity) -> Identity:
    await made.container(sandbox_of(**PINS), view_of(security=asked), PLACE)
    plan = decode_plan(supervisor.requests[-1].plan)
    return next(step for step in plan.stage2 if isinstance(step, Identity))


async def test_a_privileged_container_has_no_filter(made: Launcher, supervisor: Supervisor) -> None:
    profile = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    assert (await identity(made, supervisor, security(seccomp=profile))).seccomp
    assert not (await identity(made, supervisor, security(seccomp=profile, privileged=True))).seccomp


async def test_a_profile_of_the_node_is_read(made: Launcher, supervisor: Supervisor, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    asked = security(seccomp=SecurityProfile(ProfileType.LOCALHOST, os.fspath(path)))
    assert (await identity(made, supervisor, asked)).seccomp


async def test_what_was_resolved_when_it_was_made_counts(
    made: Launcher, supervisor: Supervisor, tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    asked = security(seccomp=SecurityProfile(ProfileType.LOCALHOST, os.fspath(path)))
    view = view_of(security=asked)
    confinement = profiles_of(Settings("node"), str(tmp_path / "root/profiles"), asked, 0)
    view = ContainerView(dataclasses.replace(view.spec, confinement=confinement), view.status)
    path.unlink()
    await made.container(sandbox_of(**PINS), view, PLACE)
    plan = decode_plan(supervisor.requests[-1].plan)
    assert next(step for step in plan.stage2 if isinstance(step, Identity)).seccomp


async def test_an_unknown_capability_is_an_error(made: Launcher) -> None:
    asked = security(capabilities=Capabilities(add=("FLY",)))
    with pytest.raises(InvalidArgument, match="FLY"):
        await made.container(sandbox_of(**PINS), view_of(security=asked), PLACE)


async def test_an_exec_gets_the_streams_that_were_asked_for(made: Launcher, supervisor: Supervisor) -> None:
    view = view_of(ProcessRef(1, 2, "boot"), security=security())
    await made.exec(view, "e1", ("x",), PLACE)
    await made.exec(view, "e2", ("x",), PLACE, StreamOptions(stdin=True, stdout=True))
    await made.exec(view, "e3", ("x",), PLACE, StreamOptions(stdin=True, stdout=True, tty=True))
    given = [
        (r.stdio.stdin, r.stdio.stdout, r.stdio.stderr, r.stdio.tty, r.stdio.uid, r.stdio.gid)
        for r in supervisor.requests
    ]
    assert given == [
        (False, True, True, False, 1000, 1001),
        (True, True, False, False, 1000, 1001),
        (True, True, False, True, 1000, 1001),
    ]


async def test_sockets_are_opened_where_the_pods_network_is_pinned(
    made: Launcher, supervisor: Supervisor
) -> None:
    await made.sockets(sandbox_of(**PINS), 3)
    (request,) = supervisor.requests
    assert request.kind == "namespaces"
    assert request.id != sandbox_of(**PINS).id
    assert decode_plan(request.plan) == plan_sockets("/pins/net", 3)
