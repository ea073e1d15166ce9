import asyncio
import os

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.services.containers.stream_ends import StreamEnds


async def test_all_descriptors_are_closed_once_and_do_not_block() -> None:
    before = len(os.listdir("/proc/self/fd"))
    read, write = os.pipe()
    ends = StreamEnds("exec x", stdin=write, stdout=read)
    assert not os.get_blocking(read)
    ends.close_input()
    ends.close_ends()
    ends.close_ends()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_size_needs_a_terminal() -> None:
    ends = StreamEnds("exec x")
    with pytest.raises(FailedPrecondition, match="cannot resize exec x: it has no terminal"):
        ends.resize(80, 24)
    with pytest.raises(InvalidArgument):
        ends.resize(-1, 24)


async def test_unwanted_output_is_read_until_the_terminal_ends() -> None:
    master, slave = os.openpty()
    ends = StreamEnds("exec x", terminal=master)
    ends.discard_output()
    os.set_blocking(slave, False)
    left = 50_000
    while left:
        try:
            left -= os.write(slave, b"x" * min(left, 1000))
        except BlockingIOError:
            await asyncio.sleep(0.001)
    os.close(slave)
    await asyncio.sleep(0.01)
    ends.close_ends()
