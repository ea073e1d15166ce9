"""From a compressed layer to a committed one: unpack, settle, sync, commit; once per chain id at a time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from shim.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, ShimError, Unavailable
from shim.images import assembly, deferred, layers, stalls
from shim.images.flights import Flights, stop, to_the_end
from shim.images.layers import LayerStore
from shim.images.progress import ProgressHub, Report
from shim.images.settings import NO_ROOM, Settings
from shim.images.syncer import Syncer
from shim.images.unpackers import Part, Unpacked, Unpackers, Wanted
from shim.kernel import filesystems
from shim.threads import Pool

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_MAX_ROUNDS: Final = 10

Source = Callable[[], AsyncGenerator[bytes, None] | Part]


@dataclass(frozen=True, slots=True)
class LayerJob:
    """One layer of an image that is to be there.

    Attributes:
        wanted: what it must be.
        source: gives its bytes; nothing is fetched before the first is asked for.
        item: name for progress.
        judge: is told that what came is not what was wanted; returns the error to raise, or None where
            ``source`` would now get it elsewhere.
    """

    wanted: Wanted
    source: Source
    item: str
    judge: Callable[[ShimError], ShimError | None] = lambda error: error


class Ingest:
    """Brings layers into the store, all at once within the node's limit.

    What waits for the disk has threads of its own, and only as long as the disk does something: one that
    hangs holds up the pulls that need it, and nothing else. The directory of a layer that was given up is
    removed when nobody is in it any more; if that is never, by the next start.

    Args:
        root: the image store's directory.
        settings: limits.
        layers: where layers go.
        unpackers: what unpacks them.
    """

    def __init__(self, root: str, settings: Settings, layers: LayerStore, unpackers: Unpackers) -> None:
        self._root = root
        self._hang_s = settings.hang_timeout_s
        self._layers = layers
        self._threads = Pool("images-disk", 4)
        self._makers = Pool("images-begin", 1)
        self._graves = Pool("images-given-up", 1)
        self._syncer = Syncer(root, self._threads)
        self._unpackers = unpackers
        self._on_disk: dict[str, asyncio.Future[Any]] = {}
        self._burying: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(settings.max_downloads)
        self._flights: Flights[None] = Flights()
        self._hub = ProgressHub()

    async def add(self, jobs: Sequence[LayerJob], chain_ids: Sequence[str], report: Report | None) -> None:
        """Return when all layers of a chain are in the store, durably. The caller holds a lease on them.

        Raises:
            ShimError: the first failure; the other layers are given up, nothing half-done stays.
        """
        tasks: list[asyncio.Task[None]] = []
        with self._hub.listen(set(chain_ids), report):
            for index, job in enumerate(jobs):
                below = tuple(tasks)
                tasks.append(asyncio.ensure_future(self._layer(job, chain_ids[: index + 1], below)))
            await _all(tasks)

    async def _layer(
        self, job: LayerJob, chain_ids: Sequence[str], below: Sequence[asyncio.Task[None]]
    ) -> None:
        chain_id = chain_ids[-1]

        async def fly() -> None:
            await self._bring(job, chain_ids, below)

        while not self._layers.has(chain_id):
            is_follower = self._flights.is_flying(chain_id)
            try:
                await self._flights.join(chain_id, fly)
            except ShimError as error:
                if not is_follower or isinstance(error, stalls.Stalled):
                    raise
                # Another caller's credentials or source failed: ours may not.
                continue
            return
        self._hub.report(chain_id, job.item, "exists", job.wanted.size, job.wanted.size)

    async def _bring(
        self, job: LayerJob, chain_ids: Sequence[str], below: Sequence[asyncio.Task[None]]
    ) -> None:
        chain_id = chain_ids[-1]
        self._hub.report(chain_id, job.item, "waiting", 0, job.wanted.size)
        directory, unpacked = await self._fetch(job, chain_id)
        try:
            if unpacked.deferred:
                await _all_done(below)
                directory = await self._settle(directory, unpacked, self._layers.lowers(chain_ids[:-1]))
            await self._sync(job.wanted)
            await self._work(job.wanted, directory, self._layers.commit, directory, chain_id)
        except BaseException as error:
            await self._give_up(directory, error)
            raise out_of_room(error) from error
        self._hub.report(chain_id, job.item, "done", job.wanted.size, job.wanted.size)

    async def _fetch(self, job: LayerJob, chain_id: str) -> tuple[str, Unpacked]:
        while True:
            source = job.source()
            if not isinstance(source, Part):
                source = self._counted(source, chain_id, job)
            try:
                return await self._unpack(source, job.wanted, {})
            except FailedPrecondition as error:
                if (verdict := job.judge(error)) is not None:
                    raise verdict from error

    async def _unpack(
        self, source: AsyncGenerator[bytes, None] | Part, wanted: Wanted, aliases: Mapping[str, str]
    ) -> tuple[str, Unpacked]:
        """Return the directory that has the unpacked layer, and what is known of it."""
        async with self._turns:
            try:
                directory = await self._begin(wanted)
            except OSError as error:
                raise out_of_room(error) from error
            watch = functools.partial(self._layers.watch, directory)
            try:
                return directory, await self._unpackers.unpack(directory, source, wanted, aliases, watch)
            except BaseException as error:
                await self._give_up(directory, error)
                raise out_of_room(error) from error

    async def _settle(self, directory: str, unpacked: Unpacked, lowers: Sequence[str]) -> str:
        """Finish a layer that needs those below; return where it is now.

        Where its entries go through links of lower layers, its stream is assembled from what was unpacked,
        and unpacked again with that knowledge. That may lead to more such links, but each round knows more.
        """
        aliases: dict[str, str] = {}
        wanted = Wanted("", unpacked.stream, unpacked.diff_id)
        try:
            for _ in range(_MAX_ROUNDS):
                found = await self._work(wanted, directory, deferred.settle, directory, lowers)
                if not found:
                    return directory
                aliases |= found
                again, _ = await self._unpack(self._assembled(directory), wanted, aliases)
                before, directory = directory, again
                await self._discard(before)
        except BaseException as error:
            await self._give_up(directory, error)
            raise
        await self._discard(directory)
        raise InvalidArgument(f"malformed layer {unpacked.diff_id}: links of lower layers lead on and on")

    async def _assembled(self, directory: str) -> AsyncGenerator[bytes, None]:
        chunks = assembly.assemble(await self._threads.run(layers.read, directory))
        while data := await self._threads.run(next, chunks, b""):
            yield data

    async def _counted(
        self, source: AsyncGenerator[bytes, None], chain_id: str, job: LayerJob
    ) -> AsyncGenerator[bytes, None]:
        done, total = 0, job.wanted.size
        async with contextlib.aclosing(source):
            async for data in source:
                yield data  # returns when the unpacker has taken it: this counts unpacked bytes, too
                done += len(data)
                phase = "downloading" if done < total else "unpacking"
                self._hub.report(chain_id, job.item, phase, done, total)

    async def close(self) -> None:
        """Stop waiting for what was given up, and end the threads."""
        for task in self._burying:
            task.cancel()
        if self._burying:
            await asyncio.wait(self._burying)
        for pool in (self._threads, self._makers, self._graves):
            await asyncio.to_thread(pool.close)

    async def _begin(self, wanted: Wanted) -> str:
        """Make a directory for a layer; a disk that hangs is not waited for."""
        making = asyncio.ensure_future(self._makers.run(self._layers.begin))
        waiting = stalls.wait(making, lambda: 0, self._hang_s, f"unpack layer {_name(wanted)}")
        try:
            await to_the_end(waiting)
        except BaseException:
            if making.done() and not making.exception():
                await self._discard(making.result())
            else:
                making.add_done_callback(self._bury_made)
            raise
        return making.result()

    async def _sync(self, wanted: Wanted) -> None:
        syncing = asyncio.ensure_future(self._syncer.sync())
        try:
            await stalls.wait(syncing, self._progress, self._hang_s, f"write layer {_name(wanted)}")
            syncing.result()
        finally:
            await stop(syncing)

    async def _work(
        self, wanted: Wanted, directory: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a function that works on a layer's directory; return when it is done, or its disk hangs."""

        async def guarded() -> T:
            work = asyncio.ensure_future(self._threads.run(function, *args, **kwargs))
            self._on_disk[directory] = work
            work.add_done_callback(functools.partial(self._off_disk, directory))
            await stalls.wait(work, self._progress, self._hang_s, f"finish layer {_name(wanted)}")
            return work.result()

        return await to_the_end(guarded())

    def _off_disk(self, directory: str, work: asyncio.Future[Any]) -> None:
        del self._on_disk[directory]
        if not work.cancelled():
            work.exception()  # looked at: nobody may wait for it any more

    def _progress(self) -> tuple[int, ...] | None:
        return filesystems.transfers(self._root)

    async def _discard(self, directory: str) -> None:
        await to_the_end(self._threads.run(self._layers.discard, directory))

    async def _give_up(self, directory: str, error: BaseException) -> None:
        """Remove the directory of a layer that failed: later, where a disk hangs."""
        is_held = directory in self._on_disk or self._unpackers.has_stuck(directory)
        if is_held or isinstance(error, stalls.Stalled):
            self._bury(directory)
        else:
            await self._discard(directory)

    def _bury_made(self, making: asyncio.Future[str]) -> None:
        if not making.cancelled() and making.exception() is None:
            self._bury(making.result())

    def _bury(self, directory: str) -> None:
        burying = asyncio.ensure_future(self._discard_when_free(directory))
        self._burying.add(burying)
        burying.add_done_callback(self._burying.discard)

    async def _discard_when_free(self, directory: str) -> None:
        if (work := self._on_disk.get(directory)) is not None:
            await asyncio.wait({work})
        await self._unpackers.until_free(directory)
        try:
            await self._graves.run(self._layers.discard, directory)
        except OSError as error:
            log.warning("%s stays for the next start: %s", directory, error)


def _name(wanted: Wanted) -> str:
    return wanted.digest or wanted.diff_id


async def _all_done(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when the layers below are there; raise what became of them if they never will be.

    The tasks are those of the caller who began this layer. Where he has left, and others wait for the layer,
    one of them begins it anew.
    """
    for task in tasks:
        await asyncio.wait({task})
        if task.cancelled():
            raise Unavailable("the pull that fetched the layers below was cancelled")
        task.result()


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; the first failure cancels the rest and is raised when they have cleaned up."""
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task for task in tasks if task in done and (task.cancelled() or task.exception())]
        for task in failed[:1]:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # looked at: only the first counts


def out_of_room(error: BaseException) -> BaseException:
    """Return the error to raise in place of ``error``: a full disk is ResourceExhausted, others stay."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return ResourceExhausted(f"no space left on the device for images: {error}")
    return error
