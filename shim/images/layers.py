"""Unpacked layers on disk, each once, by chain id.

    layers/<hex of chain id>/   fs: the overlay lower; layer.json: facts; tar.zst, displaced: unpack.record;
                                damaged: only there when something is wrong with it, and says what
    ingest/<random>/            a layer while it is unpacked
    trash/<random>/             what is being removed

A layer is unpacked in ``ingest``, synced, renamed into place, and ``layers`` is synced: at any instant it is
absent or whole. Removal renames first, too. What a crash leaves in ``ingest`` or ``trash`` the next start
removes. A layer that is found damaged keeps its place, since containers may use it, but counts as absent for
images; when it is brought in again, it is mended where it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import FailedPrecondition, NotFound
from shim.images import digest, mend
from shim.images.merged import MergedTree
from shim.kernel import files, trees

log = logging.getLogger(__name__)

_FACTS: Final = "layer.json"
_DAMAGED: Final = "damaged"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is whole.

    Attributes:
        path: its directory.
        diff_id: digest of the plain tar stream, whose length is ``stream_bytes``.
        used_bytes, inodes: what it takes on disk.
        opaque_root: it hides everything below.
        root_described: its archive says what the root directory is like.
        displaced: see ``unpack.record``.
    """

    path: str
    diff_id: str
    stream_bytes: int
    used_bytes: int
    inodes: int
    opaque_root: bool
    root_described: bool
    displaced: tuple[tuple[int, bytes, str], ...] = ()

    @property
    def fs(self) -> str:
        """The directory for overlayfs."""
        return os.path.join(self.path, "fs")


class LayerStore:
    """All layers. The index is in memory; its methods may be called from any thread, disk work blocks.

    Args:
        root: the image store's directory.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._layers: dict[str, Layer] = {}
        self._leases: Counter[str] = Counter()
        self._damaged: dict[str, tuple[str, ...]] = {}
        self._growing: dict[str, Callable[[], tuple[int, int]]] = {}
        self._placing = threading.RLock()  # while layers come and go on disk; taken before the other
        self._lock = threading.RLock()  # while the index changes: never held over disk work

    def start(self) -> None:
        """Make the directories, read what is there, set aside what is not whole. Blocking."""
        for name in ("layers", "ingest", "trash"):
            os.makedirs(self._path(name), mode=0o700, exist_ok=True)
        for name in os.listdir(self._path("ingest")):
            os.rename(self._path("ingest", name), self._path("trash", _random()))
        for name in os.listdir(self._path("layers")):
            try:
                self._layers[f"sha256:{name}"] = read(self._path("layers", name))
                if os.path.exists(self._path("layers", name, _DAMAGED)):
                    self._damaged[f"sha256:{name}"] = _problems(self._path("layers", name, _DAMAGED))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("layer %s is not whole, it is removed: %s", name, error)
                os.rename(self._path("layers", name), self._path("trash", _random()))

    def empty_trash(self) -> None:
        """Remove what was set aside. Blocking."""
        for name in os.listdir(self._path("trash")):
            try:
                trees.remove_tree(self._path("trash", name))
            except OSError as error:
                log.warning("%s stays for the next start: %s", self._path("trash", name), error)

    def begin(self) -> str:
        """Make an empty directory for a layer that is to be unpacked. Blocking."""
        path = self._path("ingest", _random())
        os.mkdir(path, 0o700)
        return path

    def watch(self, ingest: str, usage: Callable[[], tuple[int, int]]) -> None:
        """Count a layer that is being unpacked, until it is committed or discarded.

        Args:
            ingest: its directory, from ``begin``.
            usage: returns (bytes, inodes) that it takes so far.
        """
        with self._lock:
            self._growing[ingest] = usage

    def commit(self, ingest: str, chain_id: str) -> None:
        """Put an unpacked and synced layer in place, durably. Blocking.

        If it is there already, the new one is dropped, after what is damaged of the old was replaced.
        """
        place = self._path("layers", digest.hex_part(chain_id))
        with self._placing:
            if chain_id in self._damaged:
                self._mend(place, ingest, chain_id)
            if chain_id not in self._layers:
                os.rename(ingest, place)
                layer = read(place)
                with self._lock:
                    self._layers[chain_id] = layer
                    self._growing.pop(ingest, None)
        if os.path.exists(ingest):
            self.discard(ingest)
            return
        files.fsync_dir(self._path("layers"))

    def _mend(self, place: str, ingest: str, chain_id: str) -> None:
        changed = mend.mend(place, ingest, self._path("trash"), _DAMAGED)
        self._sync(place)  # before the mark goes
        os.unlink(os.path.join(place, _DAMAGED))
        files.fsync_dir(place)
        layer = read(place)
        with self._lock:
            self._layers[chain_id] = layer
            del self._damaged[chain_id]
        log.warning(
            "layer %s is whole again, replaced: %s", chain_id, ", ".join(changed[:20]) or "its records"
        )

    def _sync(self, place: str) -> None:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.syncfs(fd)
        finally:
            os.close(fd)

    def mark_damaged(self, chain_id: str, problems: Sequence[str]) -> None:
        """Say durably that a layer is not what it was: it counts as absent until it is brought in again.

        Blocking.
        """
        with self._placing:
            layer = self._layers.get(chain_id)
            if layer is not None:
                files.write_atomic(os.path.join(layer.path, _DAMAGED), _dump(problems), durable=True)
                with self._lock:
                    self._damaged[chain_id] = tuple(problems)

    def mark_whole(self, chain_id: str) -> None:
        """Say durably that a layer is what it was, after all: somebody has put right what was wrong.

        Blocking.
        """
        with self._placing:
            layer = self._layers.get(chain_id)
            if layer is not None and chain_id in self._damaged:
                os.unlink(os.path.join(layer.path, _DAMAGED))
                files.fsync_dir(layer.path)
                with self._lock:
                    del self._damaged[chain_id]

    def ids(self) -> list[str]:
        """Return the chain ids of all layers."""
        return list(self._layers)

    def damaged(self) -> dict[str, tuple[str, ...]]:
        """Return what is wrong with each damaged layer, by chain id."""
        return dict(self._damaged)

    def unpacked_at(self, chain_id: str) -> float:
        """Return when a layer was unpacked, in seconds since 1970. Blocking."""
        return os.stat(os.path.join(self.get(chain_id).path, _FACTS)).st_mtime

    def discard(self, ingest: str) -> None:
        """Remove a layer that was not finished. Idempotent. Blocking."""
        trees.remove_tree(ingest)
        with self._lock:
            self._growing.pop(ingest, None)

    def get(self, chain_id: str) -> Layer:
        """Return a layer.

        Raises:
            NotFound: it is not there.
        """
        layer = self._layers.get(chain_id)
        if layer is None:
            raise NotFound("layer", chain_id)
        return layer

    def has(self, chain_id: str) -> bool:
        """Tell whether a layer is there, and not known to be damaged."""
        return chain_id in self._layers and chain_id not in self._damaged

    def is_there(self, chain_id: str) -> bool:
        """Tell whether a layer is there, damaged or not."""
        return chain_id in self._layers

    def are_whole(self, chain_ids: Iterable[str]) -> bool:
        """Tell whether none of these layers is known to be damaged."""
        return not self._damaged or self._damaged.keys().isdisjoint(chain_ids)

    def lowers(self, chain_ids: Sequence[str]) -> tuple[str, ...]:
        """Return the directories of a chain for overlayfs, the topmost first.

        A layer whose root is opaque is the last: overlayfs ignores that mark on a layer's root.
        """
        lowers: list[str] = []
        for chain_id in reversed(chain_ids):
            layer = self.get(chain_id)
            lowers.append(layer.fs)
            if layer.opaque_root:
                break
        return tuple(lowers)

    def root_directory(self, chain_ids: Sequence[str]) -> str | None:
        """Return the ``fs`` that says what ``/`` of a chain is like; None if no layer describes it."""
        for chain_id in reversed(chain_ids):
            layer = self.get(chain_id)
            if layer.root_described:
                return layer.fs
            if layer.opaque_root:
                break
        return None

    @contextlib.contextmanager
    def lease(self, chain_ids: Iterable[str]) -> Iterator[None]:
        """Keep layers from being collected while an image is made of them."""
        chain_ids = tuple(chain_ids)
        with self._lock:
            self._leases.update(chain_ids)
        try:
            yield
        finally:
            with self._lock:
                self._leases.subtract(chain_ids)
                self._leases += Counter()  # drops zeros

    def collect(self, needed: Callable[[], Iterable[str]]) -> list[str]:
        """Take layers that nobody needs out of the store; return the directories to remove.

        Only renames; ``discard`` then removes each. Blocking.

        Args:
            needed: returns the chain ids to keep; meanwhile nobody can begin to need another.
        """
        places: list[str] = []
        with self._placing:
            with self._lock:
                gone = self._layers.keys() - {*needed(), *self._leases}
                layers = {chain_id: self._layers.pop(chain_id) for chain_id in gone}
            for chain_id, layer in layers.items():
                place = self._path("trash", _random())
                try:
                    os.rename(layer.path, place)
                except OSError as error:
                    log.warning("layer %s, which nobody needs, stays: %s", chain_id, error)
                    with self._lock:
                        self._layers[chain_id] = layer
                    continue
                places.append(place)
                with self._lock:
                    self._damaged.pop(chain_id, None)
        return places

    @property
    def lock(self) -> threading.RLock:
        """Held for a moment, never over disk work, while somebody decides what is needed."""
        return self._lock

    def usage(self) -> tuple[int, int]:
        """Return (bytes, inodes) of all layers, those that are being unpacked too, from memory."""
        with self._lock:
            layers = [(layer.used_bytes, layer.inodes) for layer in self._layers.values()]
            layers += [usage() for usage in self._growing.values()]
        return sum(used for used, _ in layers), sum(inodes for _, inodes in layers)

    def read_file(self, chain_ids: Sequence[str], path: str, limit: int) -> bytes | None:
        """Return a file as a container of this chain would see it; None if there is none. Blocking."""
        with MergedTree(self.lowers(chain_ids)) as tree:
            return tree.read(os.fsencode(path), limit)

    def has_path(self, chain_ids: Sequence[str], path: str) -> bool:
        """Tell whether a container of this chain would see anything at a path. Blocking."""
        with MergedTree(self.lowers(chain_ids)) as tree, tree.find(os.fsencode(path)) as fd:
            return fd is not None

    def _path(self, *names: str) -> str:
        return os.path.join(self._root, *names)


def _dump(problems: Sequence[str]) -> bytes:
    return json.dumps(list(problems)).encode()


def _problems(path: str) -> tuple[str, ...]:
    try:
        with open(path, "rb") as file:
            return tuple(map(str, json.load(file)))
    except (OSError, ValueError, TypeError):
        return ("it was found damaged before",)


def _random() -> str:
    return secrets.token_hex(8)


def read(path: str) -> Layer:
    """Return the layer in a directory, in place or not yet."""
    with open(os.path.join(path, _FACTS), "rb") as file:
        facts: dict[str, Any] = json.load(file)
    if facts["version"] != _VERSION:
        raise FailedPrecondition(f"{path}: format {facts['version']} is not known")
    return Layer(
        path=path,
        diff_id=facts["diff_id"],
        stream_bytes=facts["stream"],
        used_bytes=facts["bytes"],
        inodes=facts["inodes"],
        opaque_root=facts["opaque_root"],
        root_described=facts["root_described"],
        displaced=tuple((since, os.fsencode(old), name) for since, old, name in facts["displaced"]),
    )
