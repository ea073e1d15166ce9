"""The image store: what the verbs see of images."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from shim.errors import NotFound, ShimError
from shim.images import digest, explain, export
from shim.images.blobs import BlobStore
from shim.images.catalog import Catalog
from shim.images.connections import Connections
from shim.images.counters import Counters
from shim.images.credentials import Keychain
from shim.images.exchange import Shared
from shim.images.explain import Explanation
from shim.images.flights import to_the_end
from shim.images.ingest import Ingest, out_of_room
from shim.images.layers import LayerStore
from shim.images.load import Loader
from shim.images.measuring import Measurer
from shim.images.probe import Step, probe
from shim.images.progress import PullState, Report
from shim.images.pull import Puller
from shim.images.register import Register
from shim.images.settings import Settings
from shim.images.snapshots import Snapshots
from shim.images.unclean import RunningMark
from shim.images.unpackers import Unpackers
from shim.images.verify import Verdict, Verifier
from shim.images.watched import Watched
from shim.kernel import filesystems, proc
from shim.model.image import Auth, Image
from shim.model.stats import FilesystemCapacity, FilesystemUsage
from shim.threads import Pool

log = logging.getLogger(__name__)

_MAX_READ_BYTES: Final = 4 << 20
_TIDY_EVERY_S: Final = 600.0


class ImageStore:
    """Images, their layers, and the writable layers of containers.

    Make it, ``start`` it in the event loop, ``close`` it. Methods that are no coroutines answer from memory,
    but for those that say that they block.

    Args:
        root: its directory; nobody else writes there.
        settings: limits and places.
        quarantine: where records go that cannot be read.
        boot_id: of this boot, if not the kernel's.
    """

    def __init__(self, root: str, settings: Settings, quarantine: str = "", boot_id: str = "") -> None:
        self._root = root
        self._settings = settings
        self._quarantine = quarantine or os.path.join(root, "quarantine")
        self._threads = Pool("images", 4)
        self._layers = LayerStore(root)
        self._blobs = BlobStore(root)
        self._catalog = Catalog(root, self._blobs, settings.pinned)
        self._snapshots = Snapshots(root, self._layers)
        self._unpackers = Unpackers(settings, self._threads)
        self._connections = Connections(settings, self._threads)
        self._keychain = Keychain(settings.docker_config, self._threads)
        self._ingest = Ingest(root, settings, self._layers, self._unpackers)
        self._register = Register(
            self._catalog, self._layers, self._blobs, self._snapshots, self._ingest, self._threads
        )
        self._snapshots.on_release(self._register.collect)
        self._settings = settings
        self._shared = Shared(self._connections, self._keychain, Counters())
        self._puller = Puller(settings, self._shared, self._threads, self._register)
        self._loader = Loader(root, settings, self._threads, self._register)
        self._measurer = Measurer(self._snapshots, self._threads)
        self._verifier = Verifier(
            self._catalog,
            self._layers,
            self._snapshots,
            self._unpackers,
            self._puller,
            self._register,
            self._threads,
        )
        self._mark = RunningMark(root, boot_id or proc.boot_id())
        self._doubtful: list[str] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._watched = Watched(settings.watch_dir, root, self._loader, self._is_here, self._threads)
        self._watching: asyncio.Task[None] | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._cleaning: asyncio.Task[None] | None = None

    @property
    def snapshots(self) -> Snapshots:
        """The writable layers of containers."""
        return self._snapshots

    async def start(self) -> None:
        """Read what is on disk and remove what a crash left; removal goes on in the background."""
        await self._threads.run(self._start)
        self._cleaning = asyncio.ensure_future(self._tidy_forever())
        self._measuring = asyncio.ensure_future(self._measurer.run_forever())
        self._checking = asyncio.ensure_future(self._check_doubtful())
        if self._settings.watch_dir:
            self._watching = asyncio.ensure_future(self._watched.run_forever())

    def _start(self) -> None:
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        self._layers.start()
        self._blobs.start()
        self._snapshots.start()
        self._catalog.start(self._quarantine)
        for image in self._catalog.images():
            missing = [chain_id for chain_id in image.chain_ids if not self._layers.is_there(chain_id)]
            if missing:
                log.warning(
                    "image %s has lost layers (%s, …), it is removed; pull it again", image.id, missing[0]
                )
                self._catalog.remove(image.id)
        self._register.collect_blobs()
        since = self._mark.begin()
        if since is not None:
            self._doubtful = [id_ for id_ in self._layers.ids() if self._layers.unpacked_at(id_) >= since]

    async def close(self) -> None:
        """Stop what runs in the background and close connections."""
        for task in (self._measuring, self._cleaning, self._checking, self._watching):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self._unpackers.close()
        await self._ingest.close()
        await self._connections.close()
        await self._threads.run(self._mark.end)
        await asyncio.to_thread(self._keychain.close)
        await asyncio.to_thread(self._threads.close)

    async def pull(
        self, reference: str, auth: Auth | None, *, progress: Report | None = None, handler: str = ""
    ) -> Image:
        """Fetch an image; see ``pull.Puller.pull``. Images are the same for every handler."""
        log.debug("pull %s for handler %r", reference, handler)
        return await self._puller.pull(reference, auth, progress)

    def pulls(self) -> Sequence[PullState]:
        """Return how far each pull under way is."""
        return self._puller.under_way()

    async def explain(self, reference: str, auth: Auth | None) -> Explanation:
        """Return which hosts a pull would ask, and why; see ``explain.explain``."""
        return await explain.explain(self._settings, self._shared, self._threads, reference, auth)

    def probe(self, reference: str, auth: Auth | None) -> AsyncIterator[Step]:
        """Try a pull host by host and yield the time of its steps; see ``probe.probe``."""
        return probe(self._settings, self._shared, self._threads, reference, auth)

    @property
    def counters(self) -> Counters:
        """Numbers of pulls since the store was made."""
        return self._puller.counters

    def resolve(self, text: str) -> Image:
        """Return the image that a name, digest reference, id or prefix of an id means.

        Raises:
            NotFound: there is none, or it is damaged: then the kubelet pulls it again, which mends it.
        """
        image = self._catalog.resolve(text)
        if not self._layers.are_whole(image.chain_ids):
            raise NotFound("image", f"{text} (it is damaged on disk: pull or load it again)")
        return image

    def list(self) -> list[Image]:
        """Return all images that are not known to be damaged."""
        return [image for image in self._catalog.images() if self._layers.are_whole(image.chain_ids)]

    def _is_here(self, id_: str) -> bool:
        record = self._catalog.find(id_)
        return record is not None and self._layers.are_whole(
            digest.chain_ids(self._catalog.config(id_).diff_ids)
        )

    def failed_archives(self) -> Mapping[str, str]:
        """Return why archives of the watched directory could not be loaded, by file name."""
        return self._watched.failures()

    def verify(
        self, names: Sequence[str], *, repair: bool = False, auth: Auth | None = None
    ) -> AsyncIterator[Verdict]:
        """Check layers on disk; see ``verify.Verifier.verify``. An image with damaged layers is not listed.

        Args:
            names: of the images whose layers are checked, damaged ones too; none means all layers.
            repair: fetch those that are damaged again.
            auth: for the registry.

        Raises:
            NotFound: there is no such image.
        """
        images = [self._catalog.resolve(name) for name in names] if names else None
        return self._verifier.verify(images, repair=repair, auth=auth)

    async def remove(self, text: str) -> None:
        """Remove the image that ``text`` means, with all its names. Idempotent.

        Layers that containers use stay until their writable layers are gone.
        """
        await self._register.remove(text)

    async def load(
        self, path: str, name: str = "", *, pinned: bool = False, progress: Report | None = None
    ) -> Sequence[Image]:
        """Take the images out of an OCI layout (tar or directory) or docker archive; see ``load.Loader``.

        Args:
            path: the archive, plain or compressed by gzip or zstd.
            name: reference for an image that the archive gives no name.
            pinned: keep them from the kubelet's garbage collection.
            progress: hears of each layer.
        """
        return await self._loader.load(path, name, pinned=pinned, report=progress)

    async def save(self, names: Sequence[str], path: str) -> None:
        """Write images to a tar file that is an OCI layout and a docker archive at once; see ``export``."""
        chosen = [(name, self.resolve(name)) for name in names]
        chains = {chain_id for _, image in chosen for chain_id in image.chain_ids}
        with self._layers.lease(chains):
            try:
                # Under the lease to its end, though the caller leaves: a thread cannot be stopped half-way.
                await to_the_end(self._threads.run(export.save, path, chosen, self._layers, self._blobs))
            except OSError as error:
                raise out_of_room(error) from error

    def layers(self, image: Image) -> tuple[str, ...]:
        """Return the directories of an image's layers for overlayfs, the topmost first."""
        return self._layers.lowers(image.chain_ids)

    def read_file(self, image: Image, path: str) -> bytes | None:
        """Return a file as a fresh container of the image would see it; None if there is none. Blocking.

        Links stay inside the image; what is no regular file, or larger than 4 MiB, counts as none.
        """
        return self._layers.read_file(image.chain_ids, path, _MAX_READ_BYTES)

    def has_path(self, image: Image, path: str) -> bool:
        """Tell whether a fresh container of the image would see anything at a path. Blocking."""
        return self._layers.has_path(image.chain_ids, path)

    async def fs_usage(self) -> FilesystemUsage:
        """Return what images (from counters) and writable layers (measured in the background) take."""
        used, inodes = self._layers.usage()
        own_bytes, own_inodes = self._snapshots.total_usage()
        documents = sum(len(record.documents) for record in self._catalog.records())
        return FilesystemUsage(
            time.time_ns(),
            self._root,
            used + 4096 * documents + own_bytes,
            inodes + documents + own_inodes,
        )

    def capacity(self) -> FilesystemCapacity:
        """Return what the file system of images and writable layers has. Blocking."""
        return filesystems.capacity(self._root)

    async def _tidy_forever(self) -> None:
        """Remove what a crash or a pull that nobody tried again has left."""
        while True:
            try:
                await self._threads.run(self._register.tidy)
            except OSError as error:
                log.warning("cannot tidy up the image store: %s", error)
            await asyncio.sleep(_TIDY_EVERY_S)

    async def _check_doubtful(self) -> None:
        """After an unclean stop, look at what was unpacked before it; then nothing is doubtful any more."""
        if self._doubtful is None:
            return
        if self._doubtful:
            log.warning(
                "the machine went down without warning: %d layers are checked in the background",
                len(self._doubtful),
            )
        try:
            damaged = await self._verifier.check_all(self._doubtful)
        except (ShimError, OSError) as error:
            log.warning("layers cannot be checked, the next start tries again: %s", error)
            return
        if self._doubtful:
            log.info("%d layers were checked, %d are damaged", len(self._doubtful), damaged)
        await self._threads.run(self._mark.settle)
