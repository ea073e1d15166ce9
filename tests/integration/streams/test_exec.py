"""Programs in a container, with their streams in hand."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import pytest

from shim.errors import ExecFailed, FailedPrecondition, InvalidArgument, NotFound
from shim.model.streams import StreamOptions
from shim.services.containers import exec as exec_
from shim.services.containers.exec_sync import exec_sync

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)
OUT = StreamOptions(stdout=True, stderr=True)
TTY = StreamOptions(stdin=True, stdout=True, tty=True)


async def test_output_and_exit_code(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        session = await bed.streams.exec(id_, ("sh", "-c", "echo out; echo err >&2; exit 7"), OUT)
        assert session.stdin is None
        assert await session.wait() == 7
        assert await io.read(session.stdout) == b"out\n"
        assert await io.read(session.stderr) == b"err\n"
        await session.close()
        await session.close()


async def test_input_comes_through_whole_and_ends(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    data = os.urandom(1 << 20) * 64
    async with bed.nothing_left():
        session = await bed.streams.exec(id_, ("cat",), ALL)
        reading = asyncio.ensure_future(io.read(session.stdout, seconds=60))
        await io.write(session.stdin, data)
        await session.close_stdin()
        assert session.stdin is None
        got = await reading
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        assert await session.wait() == 0
        await session.close()


async def test_only_what_is_asked_for_is_there(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    script = "readlink /proc/self/fd/0; readlink /proc/self/fd/2; cat; echo lost >&2"
    session = await bed.streams.exec(
        id_, ("sh", "-c", script.replace("readlink", "busybox readlink")), StreamOptions(stdout=True)
    )
    assert (session.stdin, session.stderr) == (None, None)
    assert await io.read(session.stdout) == b"/dev/null\n/dev/null\n"
    await session.close()


async def test_a_terminal(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        script = "busybox tty; echo $TERM; read line; busybox stty size; exit 3"
        session = await bed.streams.exec(id_, ("sh", "-c", script), TTY)
        assert session.stderr is None
        assert session.stdin != session.stdout
        await io.read(session.stdout, lambda data: b"xterm" in data)
        session.resize(132, 50)
        await io.write(session.stdin, b"\n")
        assert b"50 132" in await io.read(session.stdout)
        assert await session.wait() == 3
        await session.close()
        session.resize(1, 1)


async def test_resize_before_the_first_byte_is_seen_by_the_program(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    session = await bed.streams.exec(id_, ("sh", "-c", "sleep 1; busybox stty size"), TTY)
    session.resize(91, 33)
    assert await io.read(session.stdout) == b"33 91\r\n"
    await session.close()


async def test_a_resize_interrupts_the_program(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    script = "trap 'busybox stty size; exit 0' WINCH; echo ready; while :; do usleep 10000; done"
    session = await bed.streams.exec(id_, ("sh", "-c", script), TTY)
    await io.read(session.stdout, lambda data: b"ready" in data)
    session.resize(80, 24)
    assert await io.read(session.stdout) == b"\r\n24 80\r\n"[2:]
    assert await session.wait() == 0
    await session.close()


async def test_ctrl_c_interrupts_the_program(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    session = await bed.streams.exec(id_, ("sh", "-c", "echo ready; sleep 1000"), TTY)
    await io.read(session.stdout, lambda data: b"ready" in data)
    await io.write(session.stdin, b"\x03")
    assert await session.wait() == 130
    await session.close()


async def test_a_terminal_is_the_users(bed: Any, io: Any) -> None:
    from shim.model.security import ContainerSecurity, NamespaceMode, NamespaceOptions

    security = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.CONTAINER), run_as_user=1000)
    id_ = await bed.running(security=security)
    script = "busybox stat -c %u $(busybox tty); echo through >/dev/tty"
    session = await bed.streams.exec(id_, ("sh", "-c", script), TTY)
    assert await io.read(session.stdout) == b"1000\r\nthrough\r\n"
    await session.close()


async def test_a_terminal_whose_output_nobody_wants_does_not_stop_its_program(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        script = "busybox seq 100000; read line; exit 5"
        session = await bed.streams.exec(id_, ("sh", "-c", script), StreamOptions(stdin=True, tty=True))
        assert session.stdout is None
        await io.write(session.stdin, b"\n")
        assert await session.wait() == 5
        await session.close()


async def test_without_a_terminal_there_is_no_size(bed: Any) -> None:
    session = await bed.streams.exec(await bed.running(), ("sleep", "1000"), OUT)
    with pytest.raises(FailedPrecondition, match="no terminal"):
        session.resize(80, 24)
    with pytest.raises(InvalidArgument, match="70000 columns"):
        session.resize(70000, 24)
    await session.close()
    assert await session.wait() == 137


async def test_a_death_by_signal_is_told(bed: Any) -> None:
    session = await bed.streams.exec(await bed.running(), ("sh", "-c", "kill -TERM $$"), OUT)
    assert await session.wait() == 143
    await session.close()


@pytest.mark.parametrize("options", [OUT, TTY])
async def test_what_cannot_be_run_is_an_error(bed: Any, options: StreamOptions) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        with pytest.raises(ExecFailed, match="executable file not found") as missing:
            await bed.streams.exec(id_, ("nope",), options)
        assert missing.value.exit_code == 127
        with pytest.raises(ExecFailed, match="permission denied") as denied:
            await bed.streams.exec(id_, ("/etc/passwd",), options)
        assert denied.value.exit_code == 126


async def test_a_client_that_leaves_hangs_up(bed: Any, io: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_, "_HANG_UP_S", 20)
    id_ = await bed.running()
    async with bed.nothing_left():
        script = "trap 'echo hung up >/tmp/end; exit 4' HUP; echo ready; while :; do sleep 0.01; done"
        session = await bed.streams.exec(id_, ("sh", "-c", script), TTY)
        await io.read(session.stdout, lambda data: b"ready" in data)
        await session.close()
        assert await session.wait() == 4
        assert (await exec_sync(bed.node, id_, ("cat", "/tmp/end"))).stdout == b"hung up\n"


@pytest.mark.parametrize("options", [ALL, TTY])
async def test_a_client_that_leaves_leaves_no_process(bed: Any, io: Any, options: StreamOptions) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        script = "trap '' HUP; sleep 2000 & echo ready; while :; do sleep 0.1; done"
        session = await bed.streams.exec(id_, ("sh", "-c", script), options)
        await io.read(session.stdout, lambda data: b"ready" in data)
        await session.close()
        assert await session.wait() == 137
        assert b"2000" not in (await exec_sync(bed.node, id_, ("busybox", "ps"))).stdout


async def test_what_a_program_leaves_in_the_background_lives_on(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    session = await bed.streams.exec(id_, ("sh", "-c", "sleep 2500 >/dev/null 2>&1 & exit 0"), OUT)
    assert await session.wait() == 0
    assert await io.read(session.stdout) == b""
    await session.close()
    assert b"sleep 2500" in (await exec_sync(bed.node, id_, ("busybox", "ps"))).stdout
    assert bed.exec_cgroups()


async def test_a_caller_that_leaves_while_it_starts_leaves_nothing(bed: Any) -> None:
    id_ = await bed.running()
    async with bed.nothing_left():
        for wait_s in (0, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01):
            call = asyncio.ensure_future(bed.streams.exec(id_, ("sleep", "3000"), ALL))
            await asyncio.sleep(wait_s)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await (await call).close()
                raise asyncio.CancelledError


async def test_many_sessions_cut_at_any_point_leave_nothing(bed: Any, io: Any) -> None:
    id_ = await bed.running()

    async def one(number: int) -> None:
        session = await bed.streams.exec(id_, ("cat",), TTY if number % 3 == 0 else ALL)
        if number % 2:
            await io.write(session.stdin, b"hello\n")
            await io.read(session.stdout, lambda data: b"hello" in data)
        await session.close()

    await one(0)
    async with bed.nothing_left():
        for start in range(0, 60, 10):
            await asyncio.gather(*(one(start + number) for number in range(10)))


async def test_exec_works_in_the_grace_of_a_stop_and_not_after(bed: Any, io: Any) -> None:
    id_ = await bed.running("trap '' TERM; while [ ! -e /tmp/end ]; do sleep 0.1; done")
    long = await bed.streams.exec(id_, ("sleep", "1000"), OUT)
    stopping = asyncio.ensure_future(bed.stop(id_, 60))
    await bed.until(lambda: bed.node.records.container(id_).status.stop_requested_ns)
    session = await bed.streams.exec(id_, ("echo", "still"), OUT)
    assert await io.read(session.stdout) == b"still\n"
    await session.close()
    assert (await exec_sync(bed.node, id_, ("busybox", "touch", "/tmp/end"))).exit_code == 0
    await stopping
    assert await long.wait() == 137
    await long.close()
    for call in (bed.streams.exec(id_, ("true",), OUT), exec_sync(bed.node, id_, ("true",))):
        with pytest.raises(FailedPrecondition, match="it is EXITED"):
            await call


async def test_bad_requests(bed: Any) -> None:
    id_ = await bed.running()
    for argv, options, text in (
        ((), OUT, "cmd is empty"),
        (("true",), StreamOptions(), "at least one"),
        (("true",), StreamOptions(stdout=True, stderr=True, tty=True), "one output"),
        (("a\0b",), OUT, "NUL"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            await bed.streams.exec(id_, argv, options)
    with pytest.raises(NotFound):
        await bed.streams.exec("nope", ("true",), OUT)


async def test_a_killed_supervisor_costs_no_session(bed: Any, io: Any) -> None:
    id_ = await bed.running()
    session = await bed.streams.exec(id_, ("cat",), ALL)
    os.kill(bed.helpers()["supervisor"], 9)
    await io.write(session.stdin, b"after\n")
    assert await io.read(session.stdout, lambda data: b"\n" in data) == b"after\n"
    await session.close_stdin()
    assert await session.wait() in (0, 255)
    await session.close()
