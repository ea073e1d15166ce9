"""Clients of a container's own streams."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.model.streams import StreamOptions
from shim.supervisor import fanout

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)
OUT = StreamOptions(stdout=True, stderr=True)
TTY = StreamOptions(stdin=True, stdout=True, tty=True)
ECHO = "while read line; do echo out $line; echo err $line >&2; done; exit 6"


async def test_two_clients_see_all_that_is_written(bed: Any, io: Any) -> None:
    id_ = await bed.running(ECHO, stdin=True)
    async with bed.nothing_left():
        first, second = await bed.streams.attach(id_, ALL), await bed.streams.attach(id_, OUT)
        assert second.stdin is None
        await io.write(first.stdin, b"one\n")
        for each in (first, second):
            assert await io.read(each.stdout, lambda data: b"\n" in data) == b"out one\n"
            assert await io.read(each.stderr, lambda data: b"\n" in data) == b"err one\n"
        await first.close()
        await first.close()
        third = await bed.streams.attach(id_, ALL)
        await io.write(third.stdin, b"two\n")
        for each in (second, third):
            assert await io.read(each.stdout, lambda data: b"\n" in data) == b"out two\n"
        await second.close()
        await third.close()
    assert bed.log(id_)[::2] == ["out one", "out two"]


async def test_the_end_of_the_container_ends_it(bed: Any, io: Any) -> None:
    id_ = await bed.running("read line; echo got $line; exit 6", stdin=True)
    client = await bed.streams.attach(id_, ALL)
    waiting = asyncio.ensure_future(client.wait())
    await io.write(client.stdin, b"x\n")
    assert await waiting == 6
    assert await io.read(client.stdout) == b"got x\n"
    assert await io.read(client.stderr) == b""
    assert await client.wait() == 6
    await client.close()


async def test_input_that_is_opened_once_ends_with_its_client(bed: Any, io: Any) -> None:
    id_ = await bed.running("cat; echo end; sleep 0.5; exit 3", stdin=True, stdin_once=True)
    client = await bed.streams.attach(id_, ALL)
    data = b"".join(b"%d\n" % number for number in range(1000))
    await io.write(client.stdin, data)
    await client.close_stdin()
    assert await io.read(client.stdout) == data + b"end\n"
    assert await client.wait() == 3
    await client.close()


async def test_input_that_is_opened_once_ends_when_the_client_goes(bed: Any, io: Any) -> None:
    id_ = await bed.running("cat; echo end; sleep 1000", stdin=True, stdin_once=True)
    async with bed.nothing_left():
        client = await bed.streams.attach(id_, StreamOptions(stdin=True))
        await io.write(client.stdin, b"bytes\n")
        await client.close()
        await bed.until(lambda: bed.log(id_) == ["bytes", "end"])
        late = await bed.streams.attach(id_, ALL)
        with pytest.raises(BrokenPipeError):
            await io.write(late.stdin, b"too late\n")
        await late.close_stdin()
        await late.close()


async def test_other_input_stays_open_and_the_attachment_is_over(bed: Any, io: Any) -> None:
    id_ = await bed.running("cat; echo never", stdin=True)
    first = await bed.streams.attach(id_, ALL)
    await io.write(first.stdin, b"one\n")
    await io.read(first.stdout, lambda data: b"one\n" in data)
    await first.close_stdin()
    assert await io.read(first.stdout) == b""
    assert await first.wait() == 0
    await first.close()
    second = await bed.streams.attach(id_, ALL)
    await io.write(second.stdin, b"two\n")
    assert await io.read(second.stdout, lambda data: b"\n" in data) == b"two\n"
    await second.close()


async def test_without_input_nothing_can_be_written(bed: Any, io: Any) -> None:
    id_ = await bed.running("while :; do echo tick; sleep 0.1; done")
    client = await bed.streams.attach(id_, ALL)
    with pytest.raises(BrokenPipeError):
        await io.write(client.stdin, b"x")
    await client.close_stdin()
    await io.read(client.stdout, lambda data: data.count(b"tick") > 2)
    await client.close()


async def test_a_terminal(bed: Any, io: Any) -> None:
    id_ = await bed.running("busybox stty -echo; sh -i; exit 9", stdin=True, tty=True)
    async with bed.nothing_left():
        first = await bed.streams.attach(id_, TTY)
        second = await bed.streams.attach(id_, StreamOptions(stdout=True, stderr=True))
        first.resize(101, 41)
        await io.write(first.stdin, b"busybox stty size\n")
        for each in (first, second):
            await io.read(each.stdout, lambda data: b"41 101" in data)
        assert await io.read(second.stderr) == b""
        await second.close()
        await io.write(first.stdin, b"echo be''gun; sleep 1000\n")
        await io.read(first.stdout, lambda data: b"begun" in data)
        await asyncio.sleep(0.3)
        await io.write(first.stdin, b"\x03echo inter''rupted\n")
        await io.read(first.stdout, lambda data: b"interrupted" in data)
        await first.close_stdin()
        await io.read(first.stdout)
        await first.close()
    assert bed.node.records.container(id_).status.finished_at_ns == 0
    last = await bed.streams.attach(id_, TTY)
    await io.write(last.stdin, b"exit\n")
    assert await last.wait() == 9
    await last.close()


async def test_a_client_that_does_not_read_stops_nobody(bed: Any, io: Any) -> None:
    lines = 400_000
    id_ = await bed.running(f"read x; busybox seq {lines}; exit 0", stdin=True)
    before = bed.memory("logger")
    async with bed.nothing_left():
        lazy, keen = await bed.streams.attach(id_, OUT), await bed.streams.attach(id_, ALL)
        reading = asyncio.ensure_future(io.read(keen.stdout, seconds=60))
        await io.write(keen.stdin, b"\n")
        assert await keen.wait() == 0
        expected = b"".join(b"%d\n" % number for number in range(1, lines + 1))
        assert hashlib.sha256(await reading).digest() == hashlib.sha256(expected).digest()
        await keen.close()
        await lazy.close()
    assert bed.log(id_) == [str(number) for number in range(1, lines + 1)]
    assert bed.memory("logger") - before < 3 * fanout.MAX_WAITING_BYTES / 1024


async def test_a_client_far_behind_is_cut_off(bed: Any, io: Any) -> None:
    id_ = await bed.running("read x; busybox yes 1234567 | busybox head -c 20000000; read x", stdin=True)
    lazy = await bed.streams.attach(id_, ALL)
    await io.write(lazy.stdin, b"\n")
    await asyncio.sleep(1)
    assert await lazy.wait() == 0
    assert len(await io.read(lazy.stdout)) < fanout.MAX_WAITING_BYTES
    await bed.until(lambda: len(bed.log(id_)) == 2_500_000)
    await lazy.close()


async def test_a_container_that_writes_no_more_ends_the_attachment(bed: Any, io: Any) -> None:
    id_ = await bed.running("read x; exec sleep 1000 >/dev/null 2>&1", stdin=True)
    client = await bed.streams.attach(id_, ALL)
    await io.write(client.stdin, b"\n")
    assert await client.wait() == 0
    await client.close()


async def test_much_output_at_the_end_comes_through(bed: Any, io: Any) -> None:
    id_ = await bed.running("read x; dd if=/dev/zero bs=65536 count=40 2>/dev/null", stdin=True)
    client = await bed.streams.attach(id_, ALL)
    await io.write(client.stdin, b"\n")
    assert await client.wait() == 0
    await asyncio.sleep(0.3)
    assert len(await io.read(client.stdout)) == 40 * 65536
    await client.close()


@pytest.mark.parametrize("victims", [("logger",), ("supervisor",), ("supervisor", "logger")])
async def test_attach_after_the_death_of_helpers(bed: Any, io: Any, victims: tuple[str, ...]) -> None:
    id_ = await bed.running(ECHO, stdin=True)
    before = await bed.streams.attach(id_, ALL)
    pids, losses = bed.helpers(), bed.node.supervisor.losses
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    if "supervisor" in victims:
        await bed.until(lambda: bed.node.supervisor.losses > losses and bed.node.supervisor.connected)
    client = await bed.streams.attach(id_, ALL)
    await io.write(client.stdin, b"on\n")
    assert await io.read(client.stdout, lambda data: b"\n" in data) == b"out on\n"
    if "logger" not in victims:
        assert await io.read(before.stdout, lambda data: b"\n" in data) == b"out on\n"
    await before.close()
    await client.close()


async def test_bad_requests(bed: Any) -> None:
    id_ = await bed.running("sleep 1000", stdin=True)
    for options, text in (
        (StreamOptions(), "at least one"),
        (TTY, "has no terminal"),
        (StreamOptions(stdout=True, stderr=True, tty=True), "one output"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            await bed.streams.attach(id_, options)
    with pytest.raises(NotFound):
        await bed.streams.attach("nope", OUT)
    await bed.stop(id_)
    with pytest.raises(FailedPrecondition, match="it is EXITED"):
        await bed.streams.attach(id_, OUT)


async def test_many_attachments_leave_nothing(bed: Any, io: Any) -> None:
    id_ = await bed.running(ECHO, stdin=True)
    async with bed.nothing_left():

        async def one(number: int) -> None:
            client = await bed.streams.attach(id_, ALL)
            if number % 2:
                await io.write(client.stdin, b"x\n")
                await io.read(client.stdout, lambda data: b"x\n" in data)
            await client.close()

        for _ in range(5):
            await asyncio.gather(*(one(number) for number in range(20)))


async def test_a_caller_that_leaves_while_it_attaches_leaves_nothing(bed: Any) -> None:
    id_ = await bed.running("sleep 1000")
    async with bed.nothing_left():
        for turns in range(12):
            call = asyncio.ensure_future(bed.streams.attach(id_, OUT))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await (await call).close()
                raise asyncio.CancelledError
