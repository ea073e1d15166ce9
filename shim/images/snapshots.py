"""The writable layer of each container, on top of an image's layers.

    snapshots/<container id>/   fs: overlayfs' upperdir; work: its workdir; snapshot.json: the chain below
                                images/<n>: the root directory of an image that is a volume
                                volumes/<n>: a volume that the image declares

The record is written first: a layer that it names is not collected, and the next start finds what a crash
left.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.images.layers import LayerStore
from shim.kernel import files, trees
from shim.model import ids
from shim.model.image import Image
from shim.model.mount import ImageTree, Rootfs
from shim.model.security import UserNamespace
from shim.model.stats import FilesystemUsage

log = logging.getLogger(__name__)

_RECORD: Final = "snapshot.json"


class _Record(msgspec.Struct, frozen=True):
    chain_ids: tuple[str, ...]
    mounted: tuple[str, ...] = ()
    version: int = 1


class Snapshots:
    """All writable layers. Blocking; may be called from any thread.

    Args:
        root: the image store's directory.
        layers: the layers below.
    """

    def __init__(self, root: str, layers: LayerStore) -> None:
        self._root = os.path.join(root, "snapshots")
        self._layers = layers
        self._chains: dict[str, tuple[str, ...]] = {}
        self._mounted: dict[str, tuple[str, ...]] = {}
        self._usage: dict[str, FilesystemUsage] = {}
        self._released: Callable[[], None] = _nothing

    def on_release(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, in the same thread, when layers may have lost their last user."""
        self._released = call

    def start(self) -> None:
        """Read what is there; a snapshot without record is of no use and removed."""
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        for name in os.listdir(self._root):
            try:
                with open(os.path.join(self._root, name, _RECORD), "rb") as file:
                    record = msgspec.json.decode(file.read(), type=_Record)
                self._chains[name], self._mounted[name] = record.chain_ids, record.mounted
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("snapshot %s is not whole, it is removed: %s", name, error)
                trees.remove_tree(os.path.join(self._root, name))

    def prepare(
        self,
        container_id: str,
        image: Image,
        mounted: Sequence[Image] = (),
        userns: UserNamespace | None = None,
    ) -> Rootfs:
        """Make a writable layer on top of an image. Idempotent.

        Args:
            container_id: whose it is.
            image: what is below.
            mounted: images that are volumes of the container; their layers stay as long as it does.
            userns: of the pod: its root owns the writable layer as the node's would.

        Raises:
            NotFound: the image was removed meanwhile.
        """
        path = self._path(container_id)
        with self._layers.lock:
            lowers = self._layers.lowers(image.chain_ids)
            root = self._layers.root_directory(image.chain_ids)
            others = tuple({id_: None for each in mounted for id_ in each.chain_ids})
            for chain_id in others:
                self._layers.get(chain_id)
            self._chains[container_id], self._mounted[container_id] = image.chain_ids, others
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            record = _Record(image.chain_ids, others)
            files.write_atomic(os.path.join(path, _RECORD), msgspec.json.encode(record))
            upper, work = os.path.join(path, "fs"), os.path.join(path, "work")
            if not os.path.isdir(work):
                os.makedirs(upper, exist_ok=True)
                _like(root, upper, userns or UserNamespace())
                os.mkdir(work, 0o700)
        except OSError:
            self.remove(container_id)
            raise
        self.measure(container_id)  # quick, it is empty; so statistics know it from the start
        if not lowers:  # overlayfs wants a lower: an image without layers gets an empty one
            lowers = (os.path.join(path, "empty"),)
            os.makedirs(lowers[0], exist_ok=True)
        return Rootfs(lowers, upper, work)

    def image_tree(self, container_id: str, number: int, image: Image) -> ImageTree:
        """Return how an image is mounted as a volume. Idempotent.

        Args:
            container_id: of a snapshot that was prepared with this image among the mounted ones.
            number: of the volume in the container.
            image: the image.
        """
        top = os.path.join(self._path(container_id), "images", str(number))
        os.makedirs(top, mode=0o755, exist_ok=True)
        _like(self._layers.root_directory(image.chain_ids), top, UserNamespace())
        lowers = self._layers.lowers(image.chain_ids)
        if not lowers:  # overlayfs wants two where none can be written
            lowers = (f"{top}-empty",)
            os.makedirs(lowers[0], exist_ok=True)
        return ImageTree((top, *lowers), image.id)

    def volume(self, container_id: str, number: int) -> str:
        """Make a directory that goes with the snapshot; return its path. Idempotent."""
        path = os.path.join(self._path(container_id), "volumes", str(number))
        os.makedirs(path, mode=0o755, exist_ok=True)
        return path

    def rootfs(self, container_id: str) -> Rootfs:
        """Return the directories of a prepared snapshot again.

        Raises:
            NotFound: there is none.
        """
        path = self._path(container_id)
        chain_ids = self._chains.get(container_id)
        if chain_ids is None:
            raise NotFound("snapshot", container_id)
        lowers = self._layers.lowers(chain_ids) or (os.path.join(path, "empty"),)
        return Rootfs(lowers, os.path.join(path, "fs"), os.path.join(path, "work"))

    def remove(self, container_id: str) -> None:
        """Remove a writable layer. Idempotent; the layers below stay until they are collected."""
        path = self._path(container_id)
        trees.remove_tree(path)
        self._usage.pop(container_id, None)
        self._mounted.pop(container_id, None)
        if self._chains.pop(container_id, None) is not None:
            self._released()

    def list(self) -> list[str]:
        """Return the ids of the containers that have one."""
        return list(self._chains)

    def needed(self) -> set[str]:
        """Return the chain ids of all layers in use."""
        chains = [*self._chains.values(), *self._mounted.values()]
        return {chain_id for chain in chains for chain_id in chain}

    def users(self, chain_id: str) -> tuple[str, ...]:
        """Return the ids of the containers that have a layer below them or mounted."""
        return tuple(
            id_
            for id_, chain in list(self._chains.items())
            if chain_id in chain or chain_id in self._mounted.get(id_, ())
        )

    def usage(self, container_id: str) -> FilesystemUsage | None:
        """Return what a writable layer took when it was last measured; None if it never was."""
        return self._usage.get(container_id)

    def total_usage(self) -> tuple[int, int]:
        """Return (bytes, inodes) of all writable layers, as last measured."""
        found = list(self._usage.values())
        return sum(each.used_bytes for each in found), sum(each.inodes_used for each in found)

    def measure(self, container_id: str) -> FilesystemUsage:
        """Walk a writable layer and keep the numbers."""
        path = os.path.join(self._path(container_id), "fs")
        used, inodes = files.disk_usage(path)
        found = FilesystemUsage(time.time_ns(), path, used, inodes)
        if container_id in self._chains:
            self._usage[container_id] = found
        return found

    def _path(self, container_id: str) -> str:
        if not ids.is_id(container_id):
            raise InvalidArgument(f"{container_id[:80]!r} is no container id")
        return os.path.join(self._root, container_id)


def _nothing() -> None:
    pass


def _like(source: str | None, path: str, userns: UserNamespace) -> None:
    """Give the writable layer's root what the image says of ``/``: overlayfs shows the topmost one's."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if source is None:
            os.fchown(fd, *userns.outside(0, 0))
            os.fchmod(fd, 0o755)
            return
        info = os.stat(source)
        if not stat.S_ISDIR(info.st_mode):
            raise FailedPrecondition(f"{source} is no directory")
        os.fchown(fd, *userns.outside(info.st_uid, info.st_gid))
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        for name, value in files.list_xattrs(source):
            if not name.startswith("trusted.overlay."):
                files.set_xattr(fd, name, value)
    finally:
        os.close(fd)
