"""The daemon's side of the processes that unpack layers (``unpack.worker``).

They are fresh interpreters, not forks: nothing of the daemon is in them. One that has nothing to do ends
after a while. To cancel a job its process is killed; what it wrote so far is the caller's to remove. One that
makes no progress is killed, too. Where the kernel does not let it go, since its disk hangs, it is left to
itself, and its directory to it until it is gone.
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
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import shim
from shim import errors
from shim.images import stalls
from shim.images.flights import stop, to_the_end
from shim.images.settings import Settings
from shim.images.unpack.meter import Meter
from shim.threads import Pool

log = logging.getLogger(__name__)

_IDLE_S: Final = 5.0
_DEATH_S: Final = 2.0  # in which a killed process is gone, unless its disk hangs
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
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-X", "utf8", "-c", _CODE, str(Path(shim.__file__).parents[1])],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env={"PATH": os.defpath},
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self.sock = ours
        self._waits_for_source = False
        self._fed_bytes = 0

    async def end(self) -> None:
        """Kill and reap it; one that the kernel does not let go is waited for a moment only."""
        self.sock.close()
        self.process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_S):
                await self.until_gone()

    async def until_gone(self) -> None:
        """Return when a killed process is gone, and reaped."""
        if self.process.poll() is not None:
            return
        pidfd = os.pidfd_open(self.process.pid)
        try:
            await _readable(pidfd)
        finally:
            os.close(pidfd)
        self.process.poll()

    async def verify(self, layer: str) -> dict[str, Any]:
        """Have a layer checked; return the answer."""
        layer_fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            socket.send_fds(self.sock, [json.dumps({"verify": True}).encode()], [layer_fd])
        finally:
            os.close(layer_fd)
        return await self._answer()

    async def unpack(
        self, layer: str, source: AsyncGenerator[bytes, None] | Part, job: dict[str, Any], meter_fd: int
    ) -> dict[str, Any]:
        """Have a layer unpacked; return the answer."""
        layer_fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if isinstance(source, Part):
                socket.send_fds(self.sock, [json.dumps(job).encode()], [layer_fd, source.fd, meter_fd])
                return await self._answer()
            reader, writer = os.pipe2(os.O_CLOEXEC)
            try:
                with contextlib.suppress(OSError):  # the user's limit of pipe memory may be used up
                    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                os.set_blocking(writer, False)
                socket.send_fds(self.sock, [json.dumps(job).encode()], [layer_fd, reader, meter_fd])
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
            feeding = asyncio.ensure_future(self._feed(source, pipe))
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

    def progress(self, meter: Meter) -> int | None:
        """Return something that changes while a layer is unpacked; None while nothing has come for it."""
        return None if self._waits_for_source else meter.moves() + self._fed_bytes

    async def _feed(self, source: AsyncGenerator[bytes, None], pipe: FileIO) -> None:
        """Write a stream into a pipe and close it; return early if nobody reads it any more."""
        self._waits_for_source = True
        try:
            async with contextlib.aclosing(source):
                async for data in source:
                    self._waits_for_source = False
                    view = memoryview(data)
                    while view:
                        try:
                            count = os.write(pipe.fileno(), view)
                        except BlockingIOError:
                            await _writable(pipe.fileno())
                        except BrokenPipeError:
                            return
                        else:
                            self._fed_bytes += count
                            view = view[count:]
                    self._waits_for_source = True
        finally:
            self._waits_for_source = False
        pipe.close()

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
        self._ending: set[asyncio.Task[None]] = set()
        self._stuck: dict[str, _Worker] = {}
        self._reaper: asyncio.TimerHandle | None = None

    async def unpack(
        self,
        layer: str,
        source: AsyncGenerator[bytes, None] | Part,
        wanted: Wanted,
        aliases: Mapping[str, str],
        watch: Callable[[Callable[[], tuple[int, int]]], None],
    ) -> Unpacked:
        """Unpack a layer into an empty directory.

        Args:
            layer: the directory.
            source: the layer's bytes, compressed or not.
            wanted: what it must be.
            aliases: links of lower layers that its entries go through; see ``deferred.settle``.
            watch: is given what tells, at any time, how many (bytes, inodes) the layer takes.

        Raises:
            FailedPrecondition: digest, size or diff id are not what is wanted.
            InvalidArgument: the layer is malformed or hostile.
            ResourceExhausted: the disk is full, or the layer exceeds the limits.
            Stalled: neither did bytes come nor were any unpacked, and it is not the source that is slow.
        """
        job = {
            **asdict(wanted),
            "offset": source.offset if isinstance(source, Part) else -1,
            "entries": self._settings.max_entries,
            "bytes": self._settings.max_layer_bytes,
            "aliases": dict(aliases),
        }
        worker = self._take_idle() or await self._make()
        try:
            meter, meter_fd = Meter.make()
            try:
                watch(meter.usage)
                work = asyncio.ensure_future(worker.unpack(layer, source, job, meter_fd))
                try:
                    what = f"unpack layer {wanted.digest or wanted.diff_id}"
                    hang_s = self._settings.hang_timeout_s
                    await stalls.wait(work, lambda: worker.progress(meter), hang_s, what)
                finally:
                    await stop(work)
                answer = work.result()
            finally:
                os.close(meter_fd)
        except BaseException:
            await self._end(worker, layer)
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
            answer = await worker.verify(layer)
        except BaseException:
            await self._end(worker, layer)
            raise
        self._put_back(worker)
        if "error" in answer:
            raise rebuild(answer, layer)
        return [str(problem) for problem in answer["problems"]]

    def has_stuck(self, layer: str) -> bool:
        """Tell whether a worker that was killed still is in a layer's directory."""
        worker = self._stuck.get(layer)
        if worker is not None and worker.process.poll() is not None:
            del self._stuck[layer]
        return layer in self._stuck

    async def until_free(self, layer: str) -> None:
        """Return when no worker is in a layer's directory."""
        if layer in self._stuck:
            await self._stuck[layer].until_gone()
            self._stuck.pop(layer, None)

    async def close(self) -> None:
        """End all idle workers, also one that is being started for a caller who has left."""
        if self._making:
            await asyncio.wait(self._making)
        if self._reaper is not None:
            self._reaper.cancel()
        self._end_idle()
        if self._ending:
            await asyncio.wait(self._ending)

    async def _end(self, worker: _Worker, layer: str) -> None:
        """End the worker of a layer: what the kernel does not let go within a moment is left to itself."""
        self._stuck[layer] = worker
        await to_the_end(worker.end())
        if self.has_stuck(layer):
            log.warning("process %d is stuck in the kernel, with layer %s", worker.process.pid, layer)

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
            self._let_end(worker)
        return None

    def _put_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        if self._reaper is not None:
            self._reaper.cancel()
        self._reaper = asyncio.get_running_loop().call_later(_IDLE_S, self._end_idle)

    def _end_idle(self) -> None:
        idle, self._idle = self._idle, []
        for worker in idle:
            self._let_end(worker)

    def _let_end(self, worker: _Worker) -> None:
        ending = asyncio.ensure_future(worker.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def rebuild(answer: dict[str, Any], digest: str) -> Exception:
    """Return the error that a worker's answer carries."""
    if answer["error"] == "KernelError":
        return errors.KernelError(answer["syscall"], answer["errno"], f"{digest}: {answer['path']}")
    kind = _ERRORS.get(answer["error"], errors.Internal)
    return kind(f"cannot unpack layer {digest}: {answer['message']}")


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


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _finish, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
