import asyncio
import os
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.model.streams import StreamOptions
from shim.services.containers.attach import open_attachment

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)


async def running(bench: Any, **config: Any) -> str:
    id_: str = await bench.running(**config)
    if config.get("stdin"):
        bench.world.far["input"], bench.world.kept["stdin_write"] = os.pipe()
    return id_


async def test_output_comes_from_the_logger_and_input_goes_to_the_container(bench: Any) -> None:
    client = await open_attachment(bench.node, await running(bench, stdin=True), ALL)
    os.write(bench.world.far["stdout"], b"out")
    os.write(bench.world.far["stderr"], b"err")
    os.write(client.stdin, b"in")
    assert (os.read(client.stdout, 10), os.read(client.stderr, 10)) == (b"out", b"err")
    assert os.read(bench.world.far["input"], 10) == b"in"
    await client.close()
    await client.close()
    assert bench.world.closed_inputs == []


async def test_it_waits_for_the_end_of_the_container(bench: Any) -> None:
    id_ = await running(bench)
    client = await open_attachment(bench.node, id_, ALL)
    waiting = asyncio.ensure_future(client.wait())
    await asyncio.sleep(0)
    bench.world.end(id_, 9)
    assert await waiting == 9
    assert await client.wait() == 9
    await client.close()


async def test_input_for_one_client_is_closed_when_it_ends(bench: Any) -> None:
    id_ = await running(bench, stdin=True, stdin_once=True)
    client = await open_attachment(bench.node, id_, ALL)
    await client.close_stdin()
    assert bench.world.closed_inputs == [id_]
    os.write(bench.world.far["stdout"], b"still")
    assert os.read(client.stdout, 10) == b"still"
    await client.close()
    assert bench.world.closed_inputs == [id_]


async def test_other_input_stays_and_the_attachment_is_over(bench: Any) -> None:
    client = await open_attachment(bench.node, await running(bench, stdin=True), ALL)
    os.write(bench.world.far["stdout"], b"before")
    await client.close_stdin()
    assert await client.wait() == 0
    assert os.read(client.stdout, 10) == b"before"
    assert os.read(client.stdout, 10) == b""
    await client.close()
    assert bench.world.closed_inputs == []


async def test_input_that_nobody_reads_cannot_be_written(bench: Any) -> None:
    client = await open_attachment(bench.node, await running(bench), ALL)
    with pytest.raises(BrokenPipeError):
        os.write(client.stdin, b"x")
    await client.close_stdin()
    os.write(bench.world.far["stdout"], b"still")
    assert os.read(client.stdout, 10) == b"still"
    await client.close()


async def test_a_terminal_carries_input_and_size(bench: Any) -> None:
    id_ = await running(bench, tty=True)
    bench.world.kept["tty"], bench.world.far["slave"] = os.openpty()
    client = await open_attachment(bench.node, id_, StreamOptions(stdin=True, stdout=True, tty=True))
    client.resize(90, 30)
    assert tuple(os.get_terminal_size(bench.world.far["slave"])) == (90, 30)
    await client.close()


async def test_a_failure_leaves_nothing(bench: Any) -> None:
    id_ = await running(bench)
    before = len(os.listdir("/proc/self/fd"))
    bench.world.attach_error = NotFound("log of container", id_)
    with pytest.raises(FailedPrecondition, match="it has just ended"):
        await open_attachment(bench.node, id_, ALL)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_cannot_be_attached_to_is_refused(bench: Any) -> None:
    id_ = await running(bench)
    with pytest.raises(InvalidArgument, match="has no terminal"):
        await open_attachment(bench.node, id_, StreamOptions(stdout=True, tty=True))
    with pytest.raises(InvalidArgument, match="at least one"):
        await open_attachment(bench.node, id_, StreamOptions())
    with pytest.raises(NotFound):
        await open_attachment(bench.node, "nope", ALL)
    bench.world.end(id_)
    await bench.node.waiters.expect(id_)
    with pytest.raises(FailedPrecondition, match="it is EXITED"):
        await open_attachment(bench.node, id_, ALL)
