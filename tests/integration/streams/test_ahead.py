"""What is made ready for clients who are still on their way, and what is left of it when they do not come."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shim.errors import ExecFailed, FailedPrecondition
from shim.model.security import Capabilities, ContainerSecurity, NamespaceMode, NamespaceOptions
from shim.model.streams import StreamOptions
from shim.services.containers import exec as exec_
from shim.services.sandboxes.stop import stop_pod_sandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

OUT = StreamOptions(stdout=True, stderr=True)
TTY = StreamOptions(stdin=True, stdout=True, tty=True)


def exists(path: str) -> bool:
    return os.path.exists(path)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is made ready wait for as long as a test on a busy machine may need."""
    monkeypatch.setattr(exec_, "AHEAD_S", 60)


def held(bed: Any) -> list[int]:
    """Return the processes in cgroups of execs."""
    found = set()
    for at in bed.exec_cgroups():
        with suppress(OSError):  # it has gone just now
            found |= set(map(int, Path(at, "cgroup.procs").read_text().split()))
    return sorted(found)


def stack_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stack").read_text()
    return ""


async def ready(bed: Any) -> int:
    """Return the process that waits; nothing is left for it to do but to become the program."""

    def waits() -> bool:
        pids = held(bed)
        return bool(pids) and all("unix_" in stack_of(pid) for pid in pids)

    await bed.until(waits)
    (pid,) = held(bed)
    return pid


@pytest.mark.parametrize("options", [OUT, TTY])
async def test_the_program_is_executed_by_its_client(bed: Any, io: Any, options: StreamOptions) -> None:
    id_ = await bed.running()
    argv = ("sh", "-c", "echo made >/tmp/proof; echo $$ out; exit 7")
    async with bed.nothing_left():
        ahead = bed.streams.expect_exec(id_, argv, options)
        pid = await ready(bed)
        assert not exists(f"/proc/{pid}/root/tmp/proof")
        session = await bed.streams.exec(id_, argv, options, ahead)
        assert await session.wait() == 7
        assert b" out" in await io.read(session.stdout)
        await session.close()
        # The process that waited has become it: no second one was made.
        assert not exists(f"/proc/{pid}")


async def test_a_client_who_is_faster_than_what_is_made_ready(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        for wait_s in (0, 0.001, 0.002, 0.004, 0.006):
            ahead = bed.streams.expect_exec(id_, ("echo", "x"), OUT)
            await asyncio.sleep(wait_s)
            session = await bed.streams.exec(id_, ("echo", "x"), OUT, ahead)
            assert await io.read(session.stdout) == b"x\n"
            assert await session.wait() == 0
            await session.close()


async def test_what_nobody_comes_for_is_gone_soon(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        for wait_s in (0, 0.001, 0.003, 0.005, 0.1):
            monkeypatch.setattr(exec_, "AHEAD_S", wait_s)
            bed.streams.expect_exec(id_, ("sleep", "1000"), OUT)
            bed.streams.expect_exec(id_, ("sleep", "1000"), TTY)
            await bed.until(lambda: not bed.node.execs_ahead)
        await bed.until(lambda: not bed.exec_cgroups())


async def test_a_program_that_is_missing_is_told_as_ever(bed: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        ahead = bed.streams.expect_exec(id_, ("no-such-program",), OUT)
        await ready(bed)
        with pytest.raises(ExecFailed, match="not found"):
            await bed.streams.exec(id_, ("no-such-program",), OUT, ahead)


async def test_one_that_was_killed_meanwhile_is_started_again(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        ahead = bed.streams.expect_exec(id_, ("echo", "x"), OUT)
        os.kill(await ready(bed), signal.SIGKILL)
        await bed.until(lambda: not held(bed))
        await asyncio.sleep(0.05)
        session = await bed.streams.exec(id_, ("echo", "x"), OUT, ahead)
        assert await io.read(session.stdout) == b"x\n"
        assert await session.wait() == 0
        await session.close()


async def test_nothing_waits_where_a_container_may_trace_it(bed: Any, io: Any) -> None:
    options = NamespaceOptions(pid=NamespaceMode.CONTAINER)
    id_ = await bed.running(
        security=ContainerSecurity(namespaces=options, capabilities=Capabilities(add=("SYS_PTRACE",)))
    )
    async with bed.nothing_left():
        ahead = bed.streams.expect_exec(id_, ("echo", "x"), OUT)
        await bed.until(bed.exec_cgroups)
        await asyncio.sleep(0.05)
        assert held(bed) == []
        session = await bed.streams.exec(id_, ("echo", "x"), OUT, ahead)
        assert await io.read(session.stdout) == b"x\n"
        await session.close()
        ahead = bed.streams.expect_exec(id_, ("echo", "x"), OUT)
        await bed.until(bed.exec_cgroups)
        await ahead.close()


async def test_what_waits_is_gone_when_a_container_that_may_trace_it_starts(bed: Any, io: Any) -> None:
    pod = await bed.pod()
    id_ = await bed.container(pod)
    async with bed.nothing_left():
        ahead = bed.streams.expect_exec(id_, ("echo", "x"), OUT)
        pid = await ready(bed)
        options = NamespaceOptions(pid=NamespaceMode.TARGET, target_id=id_)
        tracer = ContainerSecurity(namespaces=options, capabilities=Capabilities(add=("SYS_PTRACE",)))
        other = await bed.container(pod, security=tracer)
        await bed.until(lambda: not exists(f"/proc/{pid}"))
        session = await bed.streams.exec(id_, ("echo", "x"), OUT, ahead)
        assert await io.read(session.stdout) == b"x\n"
        assert await session.wait() == 0
        await session.close()
        await bed.stop(other)


async def test_the_end_of_the_container_is_the_end_of_what_waits(bed: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        ahead = bed.streams.expect_exec(id_, ("echo", "x"), OUT)
        pid = await ready(bed)
        await bed.stop(id_)
        await bed.until(lambda: not exists(f"/proc/{pid}"))
        with pytest.raises(FailedPrecondition, match="EXITED"):
            await bed.streams.exec(id_, ("echo", "x"), OUT, ahead)
        await ahead.close()


async def test_the_network_of_a_pod_that_is_stopped_is_kept_by_no_socket(bed: Any) -> None:
    pod = await bed.pod()
    pin = bed.node.records.sandbox(pod).spec.pins["net"]
    async with bed.nothing_left():
        with bed.streams.forwarding(pod):
            bed.streams.expect_ports(pod)
            await bed.until(lambda: bed.node.sockets.lacks(pod, 2) == 0)
            await stop_pod_sandbox(bed.node, pod)
            assert bed.node.sockets.lacks(pod, 2) == 0
            assert bed.node.sockets.take(pod) is None
    assert not exists(pin)


async def test_sockets_are_there_while_a_client_is_and_not_much_longer(bed: Any) -> None:
    pod = await bed.pod()
    async with bed.nothing_left():
        bed.streams.expect_ports(pod)
        before = bed.descriptors()
        with bed.streams.forwarding(pod):
            await bed.until(lambda: "socket:" in bed.more_than(before).get("daemon", []))
        await bed.until(lambda: "socket:" not in bed.more_than(before).get("daemon", []))
