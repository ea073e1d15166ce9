"""Streams of containers that an earlier daemon has started, and that was killed."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from shim.model.streams import StreamOptions

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

ALL = StreamOptions(stdin=True, stdout=True, stderr=True)
ECHO = "while read line; do echo out $line; done; echo end; exit 6"


def start(daemon: Any, script: str, **fields: bool) -> str:
    config = daemon.container_config("sh", "-c", script)
    for name, value in fields.items():
        setattr(config, name, value)
    return str(daemon.run(daemon.run_pod(), config=config))


@pytest.mark.parametrize("helpers", [(), ("shim.supervisor.main", "shim.supervisor.logger")])
async def test_attach_after_the_daemon_was_killed(
    daemon: Any, bed_of: Any, io: Any, helpers: tuple[str, ...]
) -> None:
    plain = start(daemon, ECHO, stdin=True, stdin_once=True)
    terminal = start(daemon, "exec sh -i", stdin=True, tty=True)
    daemon.end(signal.SIGKILL)
    async with bed_of(daemon) as bed:
        for module in helpers:
            for pid in daemon.pids_of(module):
                os.kill(pid, signal.SIGKILL)
        client = await bed.streams.attach(plain, ALL)
        await io.write(client.stdin, b"hello\n")
        await client.close_stdin()
        assert await io.read(client.stdout) == b"out hello\nend\n"
        assert await client.wait() in ((6, 255) if helpers else (6,))
        await client.close()
        assert bed.log(plain) == ["out hello", "end"]
        client = await bed.streams.attach(terminal, StreamOptions(stdin=True, stdout=True, tty=True))
        client.resize(77, 22)
        await io.write(client.stdin, b"busybox stty size; exit 4\n")
        await io.read(client.stdout, lambda data: b"22 77" in data)
        assert await client.wait() in ((4, 255) if helpers else (4,))
        await client.close()
