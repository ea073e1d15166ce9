"""Where images enter and leave the store: layers first, then documents, then the name; out in reverse."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shim.errors import Internal, NotFound, RegistryUnavailable, ResourceExhausted, ShimError
from shim.images import digest
from shim.images.blobs import BlobStore
from shim.images.catalog import Catalog, LayerRecord, Record
from shim.images.flights import to_the_end
from shim.images.ingest import Ingest, LayerJob
from shim.images.layers import LayerStore
from shim.images.manifest import Config
from shim.images.progress import Report
from shim.images.settings import NO_ROOM
from shim.images.snapshots import Snapshots
from shim.images.stalls import Stalled
from shim.model.image import Descriptor, Image
from shim.threads import Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """An image whose parts are known but not all here.

    Attributes:
        id: digest of the configuration.
        manifest: digest of the manifest; empty if there is none.
        documents: digest -> verified content, to be kept.
        repo_digest: ``name@digest``; empty for one that comes from no registry.
    """

    id: str
    manifest: str
    layers: Sequence[Descriptor]
    config: Config
    size_bytes: int
    documents: Mapping[str, bytes]
    repo_digest: str = ""
    pinned: bool = False


class Register:
    """Adds and removes images as a whole."""

    def __init__(
        self,
        catalog: Catalog,
        layers: LayerStore,
        blobs: BlobStore,
        snapshots: Snapshots,
        ingest: Ingest,
        threads: Pool,
    ) -> None:
        self._catalog = catalog
        self._layers = layers
        self._blobs = blobs
        self._snapshots = snapshots
        self._ingest = ingest
        self._threads = threads
        self._changing = asyncio.Lock()
        self._removing = threading.Lock()  # two that remove one tree would be in each other's way

    def find(self, reference: str) -> Image | None:
        """Return the image with a full reference, with tag or digest, if it is here and whole."""
        return next(
            (
                image
                for image in self._catalog.images()
                if reference in (*image.repo_tags, *image.repo_digests)
                and self._layers.are_whole(image.chain_ids)
            ),
            None,
        )

    async def add(self, found: Found, jobs: Sequence[LayerJob], tag: str, report: Report | None) -> Image:
        """Bring an image in and name it; return when it is durable.

        Args:
            found: the image.
            jobs: how to get each of its layers, the lowest first.
            tag: full reference to give it; empty for none.
            report: hears of progress.
        """
        chain_ids = digest.chain_ids(found.config.diff_ids)
        try:
            with self._layers.lease(chain_ids):
                await self._ingest.add(jobs, chain_ids, report)
                # Once begun, this ends whole even if the caller leaves, and under the lease.
                return await to_the_end(self._name(found, tag))
        except (RegistryUnavailable, Stalled):
            # A second try is near, as when the caller left (cancelled): the layers that came wait for it
            # until the store next tidies up. A disk that hangs would not let them be removed, either.
            raise
        except (ShimError, OSError):
            await self._threads.run(self.collect)
            raise

    async def _name(self, found: Found, tag: str) -> Image:
        record = Record(
            id=found.id,
            manifest=found.manifest,
            layers=tuple(LayerRecord(layer.digest, layer.size, layer.media_type) for layer in found.layers),
            size_bytes=found.size_bytes,
            digests=(found.repo_digest,) if found.repo_digest else (),
            documents=tuple(found.documents),
            pinned=found.pinned,
        )
        async with self._changing:
            try:
                return await self._threads.run(self._store, record, found, tag)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                await self._threads.run(self.collect_blobs)
                raise ResourceExhausted(f"no space left on the device for images: {error}") from error

    def _store(self, record: Record, found: Found, tag: str) -> Image:
        lost = [id_ for id_ in digest.chain_ids(found.config.diff_ids) if not self._layers.is_there(id_)]
        if lost:
            raise Internal(f"image {found.id} is not named: its layer {lost[0]} is not here")
        for name, data in found.documents.items():
            self._blobs.put(name, data)
        return self._catalog.put(record, tag)

    async def remove(self, text: str) -> None:
        """Remove an image with all its names. Idempotent: what is not here is removed."""
        try:
            image = self._catalog.resolve(text)
        except NotFound:
            return
        async with self._changing:
            await self._threads.run(self._catalog.remove, image.id)
            await self._threads.run(self.collect_blobs)
        await self._threads.run(self.collect)

    def collect(self) -> None:
        """Remove layers that neither an image nor a container needs. Blocking; from any thread."""
        with self._removing:
            for directory in self._layers.collect(self._needed):
                self._layers.discard(directory)

    def _needed(self) -> set[str]:
        chains = {chain_id for image in self._catalog.images() for chain_id in image.chain_ids}
        return chains | self._snapshots.needed()

    def tidy(self) -> None:
        """Remove what nobody needs, and what a crash left of such removals. Blocking."""
        self.collect()
        with self._removing:
            self._layers.empty_trash()

    def collect_blobs(self) -> None:
        """Remove documents that no image has. Blocking; while no image is being named."""
        needed = {name for record in self._catalog.records() for name in (record.id, *record.documents)}
        self._blobs.collect(needed)
