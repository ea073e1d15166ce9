"""A streaming server on loopback, over sessions that are programs of this machine."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import signal
import socket
import struct
import subprocess
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

import pytest

from shim.errors import ExecFailed, NotFound, ShimError, Unavailable
from shim.model.streams import StreamOptions
from shim.streaming.server import Settings, StreamingServer
from tests.integration.streaming.clients import PATIENCE_S


class Program:
    """A session: a program with real pipes, or a real terminal."""

    def __init__(self, argv: tuple[str, ...], options: StreamOptions) -> None:
        self.stdin: int | None = None
        self.stdout: int | None = None
        self.stderr: int | None = None
        self.terminal: int | None = None
        self.sizes: list[tuple[int, int]] = []
        self.closed = 0
        self.input_ended = False
        try:
            self._start(argv, options)
        except OSError as error:
            raise ExecFailed(f'exec: "{argv[0]}": {os.strerror(error.errno or 0).lower()}') from None
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd is not None:
                os.set_blocking(fd, False)
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(self.process.pid)
        loop.add_reader(self._pidfd, self._reap)

    def _start(self, argv: tuple[str, ...], options: StreamOptions) -> None:
        if options.tty:
            master, slave = os.openpty()
            tty.setraw(slave)
            try:
                self.process = subprocess.Popen(
                    argv,
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,
                    start_new_session=True,
                    preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                )
            except BaseException:
                os.close(master)
                raise
            finally:
                os.close(slave)
            self.terminal = master
            self.stdin = os.dup(master) if options.stdin else None
            self.stdout = os.dup(master) if options.stdout else None
            return
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(
            argv,
            stdin=pipe if options.stdin else null,
            stdout=pipe if options.stdout else null,
            stderr=pipe if options.stderr else null,
        )
        for name in ("stdin", "stdout", "stderr"):
            if (file := getattr(self.process, name)) is not None:
                setattr(self, name, os.dup(file.fileno()))
                file.close()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self.process.wait()
        self._exited.set_result(code if code >= 0 else 128 - code)

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    async def close_stdin(self) -> None:
        self.input_ended = True
        fd, self.stdin = self.stdin, None
        if fd is not None:
            os.close(fd)

    async def close(self) -> None:
        self.closed += 1
        if self.closed > 1:
            return
        for fd in (self.stdin, self.stdout, self.stderr, self.terminal):
            if fd is not None:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = self.terminal = None
        if not self._exited.done():
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            await asyncio.shield(self._exited)


class Programs:
    """Opens sessions and connections on this machine."""

    def __init__(self) -> None:
        self.sessions: list[Program] = []
        self.failure: ShimError | None = None
        self.container: tuple[str, ...] = ("cat",)
        self.dialled = 0
        self.expected = 0
        self.forwards = 0

    def expect_exec(self, container_id: str, argv: tuple[str, ...], options: StreamOptions) -> str:
        return f"{container_id} {argv}"

    def expect_ports(self, sandbox_id: str) -> None:
        self.expected += 1

    @contextmanager
    def forwarding(self, sandbox_id: str) -> Iterator[None]:
        self.forwards += 1
        try:
            yield
        finally:
            self.forwards -= 1

    async def exec(
        self, container_id: str, argv: tuple[str, ...], options: StreamOptions, ahead: object
    ) -> Program:
        assert ahead == f"{container_id} {argv}"
        if container_id != "c":
            raise NotFound("container", container_id)
        return self._add(argv, options)

    async def attach(self, container_id: str, options: StreamOptions) -> Program:
        if container_id != "c":
            raise NotFound("container", container_id)
        return self._add(self.container, options)

    def _add(self, argv: tuple[str, ...], options: StreamOptions) -> Program:
        if self.failure is not None:
            raise self.failure
        self.sessions.append(Program(argv, options))
        return self.sessions[-1]

    async def dial(self, sandbox_id: str, port: int) -> socket.socket:
        self.dialled += 1
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError as error:
            sock.close()
            text = os.strerror(error.errno or 0).lower()
            raise Unavailable(f"cannot connect to port {port}: {text}") from None
        except BaseException:
            sock.close()
            raise
        return sock


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def new(fds: dict[int, str], tasks: set[Any]) -> list[Any]:
    """Return what there is beyond these."""
    more = [link for fd, link in descriptors().items() if fds.get(fd) != link]
    return [*more, *(asyncio.all_tasks() - tasks)]


async def settled(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def programs() -> Programs:
    return Programs()


@pytest.fixture
async def start_server(programs: Programs) -> AsyncIterator[Callable[..., Any]]:
    """Start servers; at the end nothing is left of any."""
    before, tasks = descriptors(), asyncio.all_tasks()
    async with AsyncExitStack() as stack:

        async def start(settings: Settings | None = None) -> StreamingServer:
            server = StreamingServer(programs, settings or Settings())
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start
    await settled(lambda: all(session.closed for session in programs.sessions))
    gc.collect()
    tasks.add(asyncio.current_task())
    with suppress(TimeoutError):
        await settled(lambda: not new(before, tasks), 10)
    assert new(before, tasks) == []


@pytest.fixture
async def server(start_server: Callable[..., Any]) -> StreamingServer:
    started: StreamingServer = await start_server()
    return started


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    """A TCP server that sends back what it gets, until the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 18):
                writer.write(data)
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
