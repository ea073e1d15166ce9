"""The daemon's side of the processes that unpack layers (``unpack.worker``).

They are fresh interpreters, not forks: nothing of the daemon is in them. One that has nothing to do ends
after a while. To cancel a job its process is killed; what it wrote so far is the caller's to remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import shim
from shim import errors
from shim.images.flights import to_the_end
from shim.images.settings import Settings
from shim.threads import Pool

log = logging.getLogger(__name__)

_IDLE_S: Final = 5.0
_PIPE_BYTES: Final = 1 << 20
_ANSWER_BYTES: Final = 1 << 16
_CODE: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from shim.images.unpack import worker; worker.main()"
)
_ERRORS: Final = {
    kind.__name__: kind
    for kind in (errors.InvalidArgument, errors.FailedPrecondition, errors.ResourceExhausted)
}


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a worker says of a layer that it has unpacked.

    Attributes:
        diff_id, digest: of the plain and of the compressed stream.
        size, stream: their lengths in bytes.
        bytes, inodes: what it takes on disk.
        deferred: something waits for the layers below (``deferred``).
        opaque_root: it hides all layers below.
        root_described: its archive says what the root directory is like.
    """

    diff_id: str
    digest: str
    size: int
    stream: int
    bytes: int
    inodes: int
    deferred: bool
    opaque_root: bool
    root_described: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an open file that holds a layer, compressed or not."""

    fd: int
    offset: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a layer must be; empty texts and -1 mean unknown."""

    digest: str
    size: int
    diff_id: str


class _Worker:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", "-c", _CODE, str(Path(shim.__file__).parents[1])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},
            )
        ours.setblocking(False)
        self.sock = ours

    def end(self) -> None:
        """Kill and reap it; blocks shortly."""
        self.sock.close()
        self.process.kill()
        self.process.wait()

    async def run(
        self, layer: str, source: AsyncGenerator[bytes, None] | Part, job: dict[str, Any]
    ) -> dict[str, Any]:
        layer_fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if isinstance(source, Part):
                socket.send_fds(self.sock, [json.dumps(job).encode()], [layer_fd, source.fd])
                return await self._answer()
            reader, writer = os.pipe2(os.O_CLOEXEC)
            try:
                with contextlib.suppress(OSError):  # the user's limit of pipe memory may be used up
                    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                os.set_blocking(writer, False)
                socket.send_fds(self.sock, [json.dumps(job).encode()], [layer_fd, reader])
            except OSError:
                os.close(writer)
                raise
            finally:
                os.close(reader)
        finally:
            os.close(layer_fd)
        return await self._stream(source, writer)

    async def _stream(self, source: AsyncGenerator[bytes, None], writer: int) -> dict[str, Any]:
        """Send the layer while waiting for the answer, which comes early if something is wrong with it."""
        with FileIO(writer, "wb") as pipe:
            feeding = asyncio.ensure_future(_feed(source, pipe))
            answering = asyncio.ensure_future(self._answer())
            try:
                await asyncio.wait({feeding, answering}, return_when=asyncio.FIRST_COMPLETED)
                if feeding.done():
                    feeding.result()
                return await answering
            finally:
                for task in (feeding, answering):
                    task.cancel()
                await asyncio.wait({feeding, answering})
                for task in (feeding, answering):
                    if not task.cancelled():
                        task.exception()

    async def _answer(self) -> dict[str, Any]:
        data = await asyncio.get_running_loop().sock_recv(self.sock, _ANSWER_BYTES)
        if not data:
            raise errors.Internal(f"the process that unpacks layers ended early (pid {self.process.pid})")
        answer: dict[str, Any] = json.loads(data)
        return answer


class Unpackers:
    """A pool of workers: as many as layers are unpacked at once, none when nothing is to do."""

    def __init__(self, settings: Settings, threads: Pool) -> None:
        self._settings = settings
        self._threads = threads
        self._idle: list[_Worker] = []
        self._making: set[asyncio.Task[_Worker]] = set()
        self._reaper: asyncio.TimerHandle | None = None

    async def unpack(
        self,
        layer: str,
        source: AsyncGenerator[bytes, None] | Part,
        wanted: Wanted,
        aliases: Mapping[str, str] | None = None,
    ) -> Unpacked:
        """Unpack a layer into an empty directory.

        Args:
            layer: the directory.
            source: the layer's bytes, compressed or not.
            wanted: what it must be.
            aliases: links of lower layers that its entries go through; see ``deferred.settle``.

        Raises:
            FailedPrecondition: digest, size or diff id are not what is wanted.
            InvalidArgument: the layer is malformed or hostile.
            ResourceExhausted: the disk is full, or the layer exceeds the limits.
        """
        job = {
            **asdict(wanted),
            "offset": source.offset if isinstance(source, Part) else -1,
            "entries": self._settings.max_entries,
            "bytes": self._settings.max_layer_bytes,
            "aliases": dict(aliases or {}),
        }
        worker = self._take_idle() or await self._make()
        try:
            answer = await worker.run(layer, source, job)
        except BaseException:
            await to_the_end(self._threads.run(worker.end))
            raise
        self._put_back(worker)
        if "error" in answer:
            raise rebuild(answer, wanted.digest or wanted.diff_id)
        return Unpacked(**answer)

    async def verify(self, layer: str) -> list[str]:
        """Return what is wrong with a layer that was unpacked before; see ``unpack.check``.

        Args:
            layer: its directory.
        """
        worker = self._take_idle() or await self._make()
        try:
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                answer = await worker.run(layer, Part(nothing, 0), {"verify": True})
            finally:
                os.close(nothing)
        except BaseException:
            await to_the_end(self._threads.run(worker.end))
            raise
        self._put_back(worker)
        if "error" in answer:
            raise rebuild(answer, layer)
        return [str(problem) for problem in answer["problems"]]

    async def close(self) -> None:
        """End all idle workers, also one that is being started for a caller who has left."""
        if self._making:
            await asyncio.wait(self._making)
        if self._reaper is not None:
            self._reaper.cancel()
        idle, self._idle = self._idle, []
        for worker in idle:
            await self._threads.run(worker.end)

    async def _make(self) -> _Worker:
        """Start a worker; if the caller leaves meanwhile, the next one gets it."""
        making = asyncio.ensure_future(self._threads.run(_Worker))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._keep)
            raise

    def _keep(self, making: asyncio.Task[_Worker]) -> None:
        if not making.cancelled() and making.exception() is None:
            self._put_back(making.result())

    def _take_idle(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.end()
        return None

    def _put_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        if self._reaper is not None:
            self._reaper.cancel()
        self._reaper = asyncio.get_running_loop().call_later(_IDLE_S, self._end_idle)

    def _end_idle(self) -> None:
        idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()


def rebuild(answer: dict[str, Any], digest: str) -> Exception:
    """Return the error that a worker's answer carries."""
    if answer["error"] == "KernelError":
        return errors.KernelError(answer["syscall"], answer["errno"], f"{digest}: {answer['path']}")
    kind = _ERRORS.get(answer["error"], errors.Internal)
    return kind(f"cannot unpack layer {digest}: {answer['message']}")


async def _feed(source: AsyncGenerator[bytes, None], pipe: FileIO) -> None:
    """Write a stream into a pipe and close it; return early if nobody reads it any more."""
    async with contextlib.aclosing(source):
        async for data in source:
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(pipe.fileno(), view) :]
                except BlockingIOError:
                    await _writable(pipe.fileno())
                except BrokenPipeError:
                    return
    pipe.close()


def _finish(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _finish, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)
