"""From a compressed layer to a committed one: unpack, settle, sync, commit; once per chain id at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, ShimError
from shim.images import assembly, deferred, layers
from shim.images.flights import Flights, to_the_end
from shim.images.layers import LayerStore
from shim.images.progress import ProgressHub, Report
from shim.images.settings import NO_ROOM, Settings
from shim.images.syncer import Syncer
from shim.images.unpackers import Part, Unpacked, Unpackers, Wanted
from shim.threads import Pool

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
    """Brings layers into the store, all at once within the node's limit."""

    def __init__(
        self, settings: Settings, layers: LayerStore, threads: Pool, syncer: Syncer, unpackers: Unpackers
    ) -> None:
        self._layers = layers
        self._threads = threads
        self._syncer = syncer
        self._unpackers = unpackers
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
            except ShimError:
                if not is_follower:
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
                for task in below:
                    await asyncio.shield(task)
                directory = await self._settle(directory, unpacked, self._layers.lowers(chain_ids[:-1]))
            await self._syncer.sync()
            await to_the_end(self._threads.run(self._layers.commit, directory, chain_id))
        except BaseException as error:
            await self._discard(directory)
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
                directory = self._layers.begin()
            except OSError as error:
                raise out_of_room(error) from error
            try:
                return directory, await self._unpackers.unpack(directory, source, wanted, aliases)
            except BaseException as error:
                await self._discard(directory)
                raise out_of_room(error) from error

    async def _settle(self, directory: str, unpacked: Unpacked, lowers: Sequence[str]) -> str:
        """Finish a layer that needs those below; return where it is now.

        Where its entries go through links of lower layers, its stream is assembled from what was unpacked,
        and unpacked again with that knowledge. That may lead to more such links, but each round knows more.
        """
        aliases: dict[str, str] = {}
        wanted = Wanted("", unpacked.stream, unpacked.diff_id)
        for _ in range(_MAX_ROUNDS):
            found = await to_the_end(self._threads.run(deferred.settle, directory, lowers))
            if not found:
                return directory
            aliases |= found
            try:
                again, _ = await self._unpack(self._assembled(directory), wanted, aliases)
            finally:
                await self._discard(directory)
            directory = again
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

    async def _discard(self, directory: str) -> None:
        await to_the_end(self._threads.run(self._layers.discard, directory))


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; the first failure cancels the rest and is raised when they have cleaned up."""
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task for task in tasks if task in done and not task.cancelled() and task.exception()]
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
