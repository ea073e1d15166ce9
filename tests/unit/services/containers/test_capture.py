import asyncio
import functools
import os
from collections.abc import Callable

from shim.services.containers.capture import Capture


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def dropped(capture: Capture, number: int) -> bool:
    return capture.dropped_bytes == number


async def test_both_streams_are_kept_apart() -> None:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    capture = Capture({"stdout": out_read, "stderr": err_read}, 100)
    os.write(out_write, b"out")
    os.write(err_write, b"err")
    os.close(out_write)
    os.close(err_write)
    await capture.ended()
    assert (capture.output("stdout"), capture.output("stderr"), capture.dropped_bytes) == (b"out", b"err", 0)


async def test_the_bound_counts_both_streams_and_the_writer_never_blocks() -> None:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    capture = Capture({"stdout": out_read, "stderr": err_read}, 5)
    os.write(out_write, b"123")
    await until(lambda: capture.output("stdout") == b"123")
    for number in range(1, 5):
        os.write(err_write, b"x" * 65536)
        await until(functools.partial(dropped, capture, number * 65536 - 2))
    os.close(out_write)
    os.close(err_write)
    await capture.ended()
    assert (capture.output("stdout"), capture.output("stderr")) == (b"123", b"xx")
    assert capture.dropped_bytes == 4 * 65536 - 2


async def test_a_child_that_keeps_the_pipe_does_not_hold_up_the_end() -> None:
    read, write = os.pipe()
    capture = Capture({"stdout": read}, 100)
    os.write(write, b"done")
    await capture.finish(0.001)
    assert capture.output("stdout") == b"done"
    os.close(write)


async def test_no_descriptor_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    read, write = os.pipe()
    capture = Capture({"stdout": read}, 100)
    capture.close()
    capture.close()
    os.close(write)
    assert len(os.listdir("/proc/self/fd")) == before
