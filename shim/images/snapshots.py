"""The writable layer of each container, on top of an image's layers.

    snapshots/<container id>/   fs: overlayfs' upperdir; work: its workdir; snapshot.json: the chain below

The record is written first: a layer that it names is not collected, and the next start finds what a crash
left.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from typing import Final

import msgspec

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.images.layers import LayerStore
from shim.kernel import files, trees
from shim.model import ids
from shim.model.image import Image
from shim.model.mount import Rootfs
from shim.model.stats import FilesystemUsage

log = logging.getLogger(__name__)

_RECORD: Final = "snapshot.json"


class _Record(msgspec.Struct, frozen=True):
    chain_ids: tuple[str, ...]
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
                    self._chains[name] = msgspec.json.decode(file.read(), type=_Record).chain_ids
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("snapshot %s is not whole, it is removed: %s", name, error)
                trees.remove_tree(os.path.join(self._root, name))

    def prepare(self, container_id: str, image: Image) -> Rootfs:
        """Make a writable layer on top of an image. Idempotent.

        Raises:
            NotFound: the image was removed meanwhile.
        """
        path = self._path(container_id)
        with self._layers.lock:
            lowers = self._layers.lowers(image.chain_ids)
            root = self._layers.root_directory(image.chain_ids)
            self._chains[container_id] = image.chain_ids
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            files.write_atomic(os.path.join(path, _RECORD), msgspec.json.encode(_Record(image.chain_ids)))
            upper, work = os.path.join(path, "fs"), os.path.join(path, "work")
            if not os.path.isdir(work):
                os.makedirs(upper, exist_ok=True)
                _like(root, upper)
                os.mkdir(work, 0o700)
        except OSError:
            self.remove(container_id)
            raise
        if not lowers:  # overlayfs wants a lower: an image without layers gets an empty one
            lowers = (os.path.join(path, "empty"),)
            os.makedirs(lowers[0], exist_ok=True)
        return Rootfs(lowers, upper, work)

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
        if self._chains.pop(container_id, None) is not None:
            self._released()

    def list(self) -> list[str]:
        """Return the ids of the containers that have one."""
        return list(self._chains)

    def needed(self) -> set[str]:
        """Return the chain ids of all layers in use."""
        return {chain_id for chain in list(self._chains.values()) for chain_id in chain}

    def usage(self, container_id: str) -> FilesystemUsage | None:
        """Return what a writable layer took when it was last measured; None if it never was."""
        return self._usage.get(container_id)

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


def _like(source: str | None, path: str) -> None:
    """Give the writable layer's root what the image says of ``/``: overlayfs shows the topmost one's."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if source is None:
            os.fchmod(fd, 0o755)
            return
        info = os.stat(source)
        if not stat.S_ISDIR(info.st_mode):
            raise FailedPrecondition(f"{source} is no directory")
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        for name, value in files.list_xattrs(source):
            if not name.startswith("trusted.overlay."):
                files.set_xattr(fd, name, value)
    finally:
        os.close(fd)
