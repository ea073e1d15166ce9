import asyncio
import os
from typing import Any

import pytest

from shim.errors import ExecFailed, FailedPrecondition, InvalidArgument, NotFound
from shim.model.streams import StreamOptions
from shim.services.containers import exec as module
from shim.services.containers.exec import expect_exec, open_exec

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANG_UP_S", 0.01)


_STARTS = 2  # of an init and a container


def exec_of(bench: Any) -> str:
    (id_,) = (id_ for id_, child in bench.world.running.items() if child.kind == "exec")
    return str(id_)


async def settled(bench: Any) -> None:
    await bench.until(lambda: not any("exec-" in path for path in bench.cgroups.limits))
    assert len(bench.node.waiters) == 0


async def test_the_exit_code_comes_from_the_supervisor(bench: Any) -> None:
    session = await open_exec(bench.node, await bench.running(), ("x",), ALL)
    assert None not in (session.stdin, session.stdout, session.stderr)
    waiting = asyncio.ensure_future(session.wait())
    bench.world.end(exec_of(bench), 42)
    assert await waiting == 42
    await session.close()
    assert (session.stdin, session.stdout, session.stderr) == (None, None, None)
    await settled(bench)


async def test_the_end_of_input_is_the_end_of_the_pipe(bench: Any) -> None:
    session = await open_exec(bench.node, await bench.running(), ("x",), ALL)
    await session.close_stdin()
    await session.close_stdin()
    assert os.read(bench.world.far["stdin"], 10) == b""
    await session.close()


async def test_a_program_that_ignores_the_hang_up_is_killed(bench: Any) -> None:
    session = await open_exec(bench.node, await bench.running(), ("x",), ALL)
    await asyncio.gather(session.close(), session.close())
    assert await session.wait() == 137
    await settled(bench)


async def test_a_program_that_ends_by_the_hang_up_is_not_killed(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HANG_UP_S", 10)
    session = await open_exec(bench.node, await bench.running(), ("x",), ALL)
    closing = asyncio.ensure_future(session.close())
    await asyncio.sleep(0.01)
    bench.world.end(exec_of(bench), 129)
    await closing
    assert await session.wait() == 129


async def test_a_terminal_has_two_descriptors_and_a_size(bench: Any) -> None:
    options = StreamOptions(stdin=True, stdout=True, tty=True)
    session = await open_exec(bench.node, await bench.running(), ("x",), options)
    assert session.stderr is None
    assert session.stdin != session.stdout
    session.resize(80, 24)
    assert tuple(os.get_terminal_size(bench.world.far["tty"])) == (80, 24)
    await session.close()
    session.resize(1, 1)


async def test_what_cannot_be_started_leaves_nothing(bench: Any) -> None:
    id_ = await bench.running()
    bench.world.start_error = ExecFailed("no such program")
    with pytest.raises(ExecFailed):
        await open_exec(bench.node, id_, ("x",), ALL)
    await settled(bench)


async def test_a_caller_that_leaves_before_it_runs_leaves_nothing(bench: Any) -> None:
    id_ = await bench.running()
    before = len(os.listdir("/proc/self/fd"))
    bench.world.exec_gate = asyncio.Event()
    call = asyncio.ensure_future(open_exec(bench.node, id_, ("x",), StreamOptions(stdin=True)))
    await bench.until(lambda: len(bench.node.waiters))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    bench.world.exec_gate.set()
    await settled(bench)
    os.close(bench.world.far.pop("stdin"))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_cannot_be_executed_is_refused(bench: Any) -> None:
    id_ = await bench.running()
    with pytest.raises(InvalidArgument, match="cmd is empty"):
        await open_exec(bench.node, id_, (), ALL)
    with pytest.raises(InvalidArgument, match="at least one"):
        await open_exec(bench.node, id_, ("x",), StreamOptions())
    with pytest.raises(NotFound):
        await open_exec(bench.node, "nope", ("x",), ALL)
    bench.world.end(id_)
    await bench.node.waiters.expect(id_)
    with pytest.raises(FailedPrecondition, match="it is EXITED"):
        await open_exec(bench.node, id_, ("x",), ALL)


async def test_what_is_made_ready_ahead_is_run_by_its_client(bench: Any) -> None:
    id_ = await bench.running()
    ahead = expect_exec(bench.node, id_, ("x",), ALL)
    await bench.until(lambda: exec_of_or_none(bench))
    session = await open_exec(bench.node, id_, ("x",), ALL, ahead)
    assert bench.world.starts == _STARTS + 1
    bench.world.end(exec_of(bench), 42)
    assert await session.wait() == 42
    await session.close()
    await settled(bench)
    assert not bench.node.execs_ahead


def exec_of_or_none(bench: Any) -> str | None:
    return next((id_ for id_, child in bench.world.running.items() if child.kind == "exec"), None)


async def test_a_client_who_is_there_at_once_waits_for_what_is_under_way(bench: Any) -> None:
    id_ = await bench.running()
    session = await open_exec(bench.node, id_, ("x",), ALL, expect_exec(bench.node, id_, ("x",), ALL))
    assert bench.world.starts == _STARTS + 1
    await session.close()
    await settled(bench)


async def test_what_nobody_comes_for_is_undone(bench: Any) -> None:
    timers = bench.hold_timers(module.AHEAD_S)
    id_ = await bench.running()
    before = len(os.listdir("/proc/self/fd"))
    ahead = expect_exec(bench.node, id_, ("x",), StreamOptions(stdin=True))
    await bench.until(lambda: exec_of_or_none(bench))
    (give_up,) = timers
    give_up()
    await bench.until(lambda: not exec_of_or_none(bench))
    await settled(bench)
    os.close(bench.world.far.pop("stdin"))
    await bench.until(lambda: len(os.listdir("/proc/self/fd")) == before)
    session = await open_exec(bench.node, id_, ("x",), ALL, ahead)
    assert bench.world.starts == _STARTS + 2
    await session.close()


async def test_what_died_before_its_client_came_is_started_again(bench: Any) -> None:
    id_ = await bench.running()
    ahead = expect_exec(bench.node, id_, ("x",), ALL)
    assert ahead is not None
    await bench.until(lambda: exec_of_or_none(bench))
    bench.world.end(exec_of(bench), 137)
    bench.world.let_go.set()
    await asyncio.sleep(0.01)
    session = await open_exec(bench.node, id_, ("x",), ALL, ahead)
    assert bench.world.starts == _STARTS + 2
    await session.close()
    await settled(bench)


async def test_what_was_sent_home_is_started_again(bench: Any) -> None:
    id_ = await bench.running()
    for wait in (True, False):
        before = bench.world.starts
        ahead = expect_exec(bench.node, id_, ("x",), ALL)
        assert ahead is not None
        if wait:
            await bench.until(lambda: exec_of_or_none(bench))
        ahead._go.cancel()
        session = await open_exec(bench.node, id_, ("x",), ALL, ahead)
        await session.close()
        await settled(bench)
        # One that was sent home on its way may not have come to its start, or come to it late.
        assert bench.world.starts - before in ((2,) if wait else (1, 2))


async def test_what_could_not_be_made_ready_is_tried_again(bench: Any) -> None:
    id_ = await bench.running()
    bench.world.start_error = ExecFailed("no such program")
    ahead = expect_exec(bench.node, id_, ("x",), ALL)
    await settled(bench)
    with pytest.raises(ExecFailed):
        await open_exec(bench.node, id_, ("x",), ALL, ahead)
    ahead = expect_exec(bench.node, id_, ("x",), ALL)
    await settled(bench)
    bench.world.start_error = None
    await (await open_exec(bench.node, id_, ("x",), ALL, ahead)).close()
    await settled(bench)


async def test_only_so_many_are_made_ready(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_AHEAD", 2)
    id_ = await bench.running()
    first, second, third = (expect_exec(bench.node, id_, ("x",), ALL) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is None
    await asyncio.wait((first.close(), second.close()))
    await settled(bench)


async def test_a_client_who_leaves_after_the_go_leaves_nothing(bench: Any) -> None:
    id_ = await bench.running()
    bench.world.exec_gate = asyncio.Event()
    ahead = expect_exec(bench.node, id_, ("x",), ALL)
    call = asyncio.ensure_future(open_exec(bench.node, id_, ("x",), ALL, ahead))
    await bench.until(lambda: len(bench.node.waiters))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    bench.world.exec_gate.set()
    await settled(bench)


async def test_the_end_of_the_daemon_is_the_end_of_what_is_made_ready(bench: Any) -> None:
    id_ = await bench.running()
    expect_exec(bench.node, id_, ("x",), ALL)
    await bench.until(lambda: exec_of_or_none(bench))
    await bench.node.close()
    assert not bench.node.execs_ahead
    assert exec_of_or_none(bench) is None
