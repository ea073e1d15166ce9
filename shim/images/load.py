"""Images from archives: what a pull does, without a registry."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os

from shim.errors import InvalidArgument
from shim.images import archive, reference
from shim.images.bundle import Bundle, open_bundle
from shim.images.ingest import LayerJob
from shim.images.progress import Report
from shim.images.register import Register
from shim.images.settings import Settings
from shim.images.unpackers import Part
from shim.model.image import Image
from shim.threads import Pool


class Loader:
    """Loads archives into the store.

    Args:
        root: the image store's directory; compressed archives pass through its ``ingest``.
        settings: limits.
        threads: for the disk.
        register: where images go.
    """

    def __init__(self, root: str, settings: Settings, threads: Pool, register: Register) -> None:
        self._limit = settings.max_layer_bytes
        self._spool = os.path.join(root, "ingest")
        self._threads = threads
        self._register = register

    async def load(self, path: str, name: str, *, pinned: bool, report: Report | None) -> list[Image]:
        """Take in every image of an archive or directory that this machine can run.

        Args:
            path: OCI layout (tar or directory) or docker archive, plain or compressed.
            name: reference for an image without a name; empty leaves it without.
            pinned: keep the images from garbage collection.
            report: hears of progress.

        Raises:
            InvalidArgument: it is no such archive, or something in it is malformed.
            FailedPrecondition: a digest is wrong.
            NotFound: the archive is not there.
        """
        given = str(reference.parse(name)) if name else ""
        opening = asyncio.ensure_future(self._threads.run(open_bundle, path, self._spool, self._limit))
        try:
            bundle = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait({opening})
            if not opening.cancelled() and opening.exception() is None:
                opening.result().close()
            raise
        try:
            packed = await self._threads.run(archive.read_images, bundle)
            return [await self._add(bundle, image, given, pinned, report) for image in packed]
        finally:
            await self._threads.run(bundle.close)

    async def _add(
        self, bundle: Bundle, packed: archive.Packed, given: str, pinned: bool, report: Report | None
    ) -> Image:
        jobs: list[LayerJob] = []
        for name, wanted in packed.layers:
            part, size = await self._threads.run(bundle.part, name)
            if size != wanted.size:
                raise InvalidArgument(f"{name!r} in the archive has {size} bytes instead of {wanted.size}")
            jobs.append(LayerJob(wanted, functools.partial(_given, part), wanted.diff_id))
        found = dataclasses.replace(packed.found, pinned=pinned)
        first, *others = packed.names or (given,)
        image = await self._register.add(found, jobs, first, report)
        for other in others:
            image = await self._register.add(found, jobs, other, report)
        return image


def _given(part: Part) -> Part:
    return part
