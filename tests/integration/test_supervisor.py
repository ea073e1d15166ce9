"""Supervisor, logger and client together: real processes, real kills."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shim.errors import ExecFailed
from shim.model.container import ExitRecord
from shim.runtime.plan import Plan, encode_plan
from shim.runtime.steps_process import Execute, Streams
from shim.supervisor import exit_records
from shim.supervisor.client import Child, ForkRequest, SupervisorClient
from shim.supervisor.protocol import CONTAINER, EXEC, LogConfig
from shim.supervisor.stdio import Stdio
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.root

SH = "/bin/sh"


def plan(*argv: str) -> bytes:
    steps = (Streams(0, 0), Execute(argv, ("PATH=/usr/bin:/bin",)))
    return encode_plan(Plan("container", (), steps))


class Node:
    """A client with what it was told."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.exits: dict[str, ExitRecord] = {}
        self._changed = asyncio.Event()
        self.client = SupervisorClient(str(state), self._on_exit)

    def _on_exit(self, record: ExitRecord) -> None:
        self.exits[record.id] = record
        self._changed.set()

    async def exit_of(self, id_: str) -> ExitRecord:
        async with asyncio.timeout(PATIENCE_S):
            while id_ not in self.exits:
                self._changed.clear()
                await self._changed.wait()
        return self.exits[id_]

    async def container(self, id_: str, script: str) -> Child:
        return await self.client.fork(
            ForkRequest(id_, CONTAINER, plan(SH, "-c", script), Stdio(), LogConfig(self.log(id_)))
        )

    def log(self, id_: str) -> str:
        return str(self.state / f"{id_}.log")

    def lines(self, id_: str) -> list[str]:
        with open(self.log(id_)) as file:
            return [line.split(" ", 3)[3].rstrip("\n") for line in file]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                await asyncio.sleep(0.01)

    def pid_of(self, name: str) -> int:
        """Find a process of this state directory by its module."""
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                try:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if name.encode() in command and any(str(self.state).encode() in part for part in command):
                    return int(entry)
        raise AssertionError(f"no process {name}")


@asynccontextmanager
async def node(state: Path) -> AsyncIterator[Node]:
    it = Node(state)
    await it.client.open()
    try:
        yield it
    finally:
        for child in await it.client.children():
            await it.client.kill(child.id)
            if child.record is None:
                await it.exit_of(child.id)
        await it.client.close(end_if_idle=True)


async def test_a_container_runs_logs_and_ends(tmp_path: Path) -> None:
    async with node(tmp_path) as it:
        child = await it.container("c1", "echo hello; echo oops >&2; exit 3")
        assert child.info.pid > 0
        record = await it.exit_of("c1")
        assert (record.exit_code, record.signal, record.source) == (3, 0, "wait")
        await it.client.drain_log("c1")
        assert sorted(it.lines("c1")) == ["hello", "oops"]
        assert exit_records.load_all(str(tmp_path / "exits")) == {"c1": record}
        await it.client.forget("c1")
        assert exit_records.load_all(str(tmp_path / "exits")) == {}
        assert await it.client.children() == []


async def test_a_missing_program_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as it:
        with pytest.raises(ExecFailed, match="not found") as caught:
            await it.client.fork(ForkRequest("c1", CONTAINER, plan("nope"), Stdio()))
        assert caught.value.exit_code == 127
        async with asyncio.timeout(PATIENCE_S):
            while await it.client.children():
                await asyncio.sleep(0.01)
        assert it.exits == {}


async def test_the_output_of_an_exec_comes_to_the_caller(tmp_path: Path) -> None:
    async with node(tmp_path) as it:
        child = await it.client.fork(ForkRequest("e1", EXEC, plan(SH, "-c", "echo out; exit 4"), Stdio()))
        await it.exit_of("e1")
        assert os.read(child.fds["stdout"], 100) == b"out\n"
        for fd in child.fds.values():
            os.close(fd)
        assert it.exits["e1"].exit_code == 4
        await it.client.forget("e1")


async def test_containers_outlive_the_daemon(tmp_path: Path) -> None:
    first = Node(tmp_path)
    await first.client.open()
    child = await first.container("c1", "sleep 60")
    short = await first.container("c2", "exit 5")
    await first.client.close()
    await first.until(lambda: (tmp_path / "exits/c2.json").exists())
    async with node(tmp_path) as second:
        infos = {child.id: child for child in await second.client.children()}
        assert infos["c1"].pid == child.info.pid
        assert infos["c1"].start_time == child.info.start_time
        assert infos["c2"].pid == short.info.pid
        assert (await second.exit_of("c2")).exit_code == 5


@pytest.mark.parametrize("victims", [("supervisor",), ("logger",), ("supervisor", "logger")])
async def test_killed_helpers_of_the_daemon_cost_no_line(tmp_path: Path, victims: tuple[str, ...]) -> None:
    script = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.005; done; exit 7"
    modules = {"supervisor": "shim.supervisor.main", "logger": "shim.supervisor.logger"}
    async with node(tmp_path) as it:
        await it.container("c1", script)
        await it.until(lambda: os.path.exists(it.log("c1")) and len(it.lines("c1")) > 20)
        pids = [it.pid_of(modules[victim]) for victim in victims]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        record = await it.exit_of("c1")
        assert record.exit_code == 7
        assert record.source in {"wait", "stat", "pidfd"}
        await it.client.drain_log("c1")
        assert it.lines("c1") == [f"line {i}" for i in range(400)]


async def test_an_upgrade_keeps_children(tmp_path: Path) -> None:
    async with node(tmp_path) as it:
        child = await it.container("c1", "sleep 0.5; echo still there; exit 6")
        await it.container("c2", "exit 5")
        before = it.pid_of("shim.supervisor.main")
        await it.client.upgrade()
        infos = {info.id: info for info in await it.client.children()}
        assert infos["c1"].pid == child.info.pid
        assert not infos["c1"].adopted
        record = await it.exit_of("c1")
        assert (record.exit_code, record.source) == (6, "wait")
        assert (await it.exit_of("c2")).exit_code == 5
        assert it.pid_of("shim.supervisor.main") == before
        await it.client.drain_log("c1")
        assert it.lines("c1") == ["still there"]
