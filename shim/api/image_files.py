"""cri_shim.v1.Images: images from files, into files, and with progress (proto/cri_shim/v1/images.proto)."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any, Final

from shim import errors
from shim._proto import images_pb2 as own
from shim.api.convert import check
from shim.model.image import Auth, Image, ImageSpec
from shim.services.images.load import load_images
from shim.services.images.pull import pull_image
from shim.services.images.save import save_images
from shim.services.images.status import image_status
from shim.services.images.verify import verify_images
from shim.services.node import Node
from shim.threads import Pool

CHUNK_BYTES: Final = 1 << 20
# Progress is news: what has not been sent when the next comes is replaced by it.
PROGRESS_PERIOD_S: Final = 0.1


def _loaded(image: Image) -> own.LoadedImage:
    return own.LoadedImage(id=image.id, repo_tags=image.repo_tags)


class ImageFiles:
    """The methods of our own service.

    Args:
        node: the collaborators.
        spool: directory on the file system of the images, where archives pass through.
    """

    def __init__(self, node: Node, spool: str) -> None:
        self._node = node
        self._spool = spool
        self._pool = Pool("archives", 2)

    def close(self) -> None:
        """End the threads that copy archives."""
        self._pool.close()

    async def pull(self, request: own.PullRequest, _context: Any) -> AsyncIterator[own.Progress]:
        """Fetch an image and tell how far it is; the pull ends when its caller leaves."""
        reference = check.given(request.reference, "reference")
        auth = Auth(username=request.username, password=request.password) if request.username else None
        news: dict[str, own.Progress] = {}

        def report(item: str, phase: str, done_bytes: int, total_bytes: int) -> None:
            news[item] = own.Progress(item=item, phase=phase, done_bytes=done_bytes, total_bytes=total_bytes)

        task = asyncio.create_task(pull_image(self._node, ImageSpec(reference), auth, progress=report))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=PROGRESS_PERIOD_S)
                for item in list(news):
                    yield news.pop(item)
            image = image_status(self._node, ImageSpec(await task))
        finally:
            task.cancel()
        if image is None:
            raise errors.NotFound("image", reference)
        yield own.Progress(phase="done", image=_loaded(image))

    async def load(self, chunks: AsyncIterator[own.LoadChunk], _context: Any) -> own.LoadResponse:
        """Take the images out of an archive that comes in chunks."""
        with tempfile.NamedTemporaryFile(dir=self._spool, prefix="load-") as file:
            name, pinned = "", False
            async for chunk in chunks:
                name, pinned = name or chunk.name, pinned or chunk.pinned
                await self._pool.run(file.write, chunk.data)
            await self._pool.run(file.flush)
            images = await load_images(self._node, file.name, name, pinned=pinned)
        return own.LoadResponse(images=[_loaded(image) for image in images])

    async def save(self, request: own.SaveRequest, _context: Any) -> AsyncIterator[own.SaveChunk]:
        """Write images into an archive and send it in chunks."""
        if not request.names:
            raise errors.InvalidArgument("names must not be empty: name at least one image")
        descriptor, path = tempfile.mkstemp(dir=self._spool, prefix="save-")
        os.close(descriptor)
        try:
            await save_images(self._node, list(request.names), path)
            with open(path, "rb") as file:  # noqa: ASYNC230 (opening is quick; reading goes to the pool)
                while data := await self._pool.run(file.read, CHUNK_BYTES):
                    yield own.SaveChunk(data=data)
        finally:
            os.unlink(path)

    async def verify(self, request: own.VerifyRequest, _context: Any) -> AsyncIterator[own.LayerVerdict]:
        """Check layers on disk; mend them if asked to."""
        auth = Auth(username=request.username, password=request.password) if request.username else None
        async for found in verify_images(self._node, list(request.names), repair=request.repair, auth=auth):
            yield own.LayerVerdict(
                diff_id=found.diff_id,
                images=found.images,
                containers=found.containers,
                problems=found.problems,
                mended=found.mended,
                reason=found.reason,
            )
