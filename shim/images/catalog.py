"""Which images there are and what they are called.

One record an image, ``catalog/<hex of id>.json``, replaced as a whole and durable. A name carries the time it
was given: where a crash left one name in two records, the later counts. A record is written after everything
it refers to. Readers may be in any thread: what they iterate over is replaced, never changed.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import threading
import time
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, ShimError
from shim.images import digest, manifest, reference
from shim.images.blobs import BlobStore
from shim.kernel import files
from shim.model.image import Image

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION: Final = 1
_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{3,64})")


class LayerRecord(msgspec.Struct, frozen=True):
    """A layer as its manifest names it. ``digest`` and ``size`` are of the compressed form."""

    digest: str
    size: int
    media_type: str


class Record(msgspec.Struct, frozen=True):
    """An image on disk.

    Attributes:
        id: digest of the configuration, a blob.
        manifest: digest of the manifest, a blob; empty if it came from an archive that has none.
        layers: the lowest first.
        tags: full reference -> time in nanoseconds when it was given.
        digests: ``name@digest`` of what was pulled.
        documents: all blobs that belong to it.
    """

    id: str
    manifest: str
    layers: tuple[LayerRecord, ...]
    size_bytes: int
    tags: dict[str, int] = {}
    digests: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    pinned: bool = False
    version: int = VERSION


class Catalog:
    """The records, in memory and on disk. Reading is from memory; writing blocks.

    Args:
        root: the image store's directory.
        blobs: where configurations lie.
        pinned: shell patterns of references that are pinned.
    """

    def __init__(self, root: str, blobs: BlobStore, pinned: tuple[str, ...]) -> None:
        self._directory = os.path.join(root, "catalog")
        self._blobs = blobs
        self._pinned = pinned
        self._records: dict[str, Record] = {}
        self._configs: dict[str, manifest.Config] = {}
        self._images: dict[str, Image] = {}
        self._writing = threading.Lock()

    def start(self, quarantine: str) -> None:
        """Read all records; what cannot be read goes to ``quarantine``. Blocking."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        for name in sorted(os.listdir(self._directory)):
            path = os.path.join(self._directory, name)
            if name.startswith("."):
                os.unlink(path)
                continue
            try:
                with open(path, "rb") as file:
                    self._admit(decode(file.read()))
            except (OSError, ShimError, msgspec.MsgspecError) as error:
                log.warning("image record %s cannot be used, it is set aside: %s", path, error)
                os.makedirs(quarantine, mode=0o700, exist_ok=True)
                os.rename(path, os.path.join(quarantine, f"image-{name}"))
        self._settle_names()

    def images(self) -> list[Image]:
        """Return all images."""
        return list(self._images.values())

    def records(self) -> list[Record]:
        """Return all records."""
        return list(self._records.values())

    def record(self, id_: str) -> Record:
        """Return the record of an image.

        Raises:
            NotFound: there is none.
        """
        record = self._records.get(id_)
        if record is None:
            raise NotFound("image", id_)
        return record

    def find(self, id_: str) -> Record | None:
        """Return the record of an image, None if there is none."""
        return self._records.get(id_)

    def config(self, id_: str) -> manifest.Config:
        """Return an image's configuration."""
        self.record(id_)
        return self._configs[id_]

    def resolve(self, text: str) -> Image:
        """Return the image that a name, digest reference, id or prefix of an id means.

        Raises:
            NotFound: there is none.
            InvalidArgument: a prefix fits more than one.
        """
        if text in self._images:
            return self._images[text]
        try:
            wanted = str(reference.parse(text).canonical())
        except InvalidArgument:
            wanted = ""
        for image in self._images.values():
            if wanted in image.repo_tags or wanted in image.repo_digests:
                return image
        return self._by_prefix(text)

    def put(self, record: Record, tag: str) -> Image:
        """Add an image or a name of it, durably; the name is taken from whatever had it. Blocking."""
        with self._writing:
            return self._put(record, tag)

    def _put(self, record: Record, tag: str) -> Image:
        known = self._records.get(record.id)
        stamp = max(
            time.time_ns(),
            1 + max((max(r.tags.values(), default=0) for r in self._records.values()), default=0),
        )
        tags = dict(known.tags) if known else {}
        if tag:
            tags[tag] = stamp
        merged = msgspec.structs.replace(
            record,
            tags=tags,
            digests=_union(known.digests if known else (), record.digests),
            documents=_union(known.documents if known else (), record.documents),
            pinned=record.pinned or bool(known and known.pinned),
        )
        self._write(merged)
        image = self._admit(merged)
        for other in [
            other for other in self._records.values() if tag in other.tags and other.id != record.id
        ]:
            rest = {name: given for name, given in other.tags.items() if name != tag}
            changed = msgspec.structs.replace(other, tags=rest)
            self._admit(changed)
            self._write(changed)
        return image

    def remove(self, id_: str) -> None:
        """Forget an image with all its names, durably. Idempotent. Blocking."""
        with self._writing:
            if id_ not in self._records:
                return
            os.unlink(self._path(id_))
            self._images = _without(self._images, id_)
            self._records = _without(self._records, id_)
            self._configs.pop(id_, None)
            files.fsync_dir(self._directory)

    def _admit(self, record: Record) -> Image:
        if record.id not in self._configs:
            self._configs[record.id] = manifest.parse_config(self._blobs.get(record.id), f"image {record.id}")
        image = _image(record, self._configs[record.id], self._pinned)
        self._records = {**self._records, record.id: record}
        self._images = {**self._images, record.id: image}
        return image

    def _write(self, record: Record) -> None:
        files.write_atomic(self._path(record.id), msgspec.json.encode(record), durable=True)

    def _path(self, id_: str) -> str:
        return os.path.join(self._directory, f"{digest.hex_part(digest.check(id_, 'image id'))}.json")

    def _by_prefix(self, text: str) -> Image:
        match = _ID.fullmatch(text)
        fits = [
            image for id_, image in self._images.items() if match and id_.startswith(f"sha256:{match[1]}")
        ]
        if len(fits) > 1:
            raise InvalidArgument(f"the id {text!r} fits {len(fits)} images; give more of it")
        if not fits:
            raise NotFound("image", text)
        return fits[0]

    def _settle_names(self) -> None:
        owner: dict[str, Record] = {}
        for record in self._records.values():
            for name, given in record.tags.items():
                if name not in owner or given > owner[name].tags[name]:
                    owner[name] = record
        for record in list(self._records.values()):
            rest = {name: given for name, given in record.tags.items() if owner[name].id == record.id}
            if rest != record.tags:
                changed = msgspec.structs.replace(record, tags=rest)
                self._admit(changed)
                try:
                    self._write(changed)
                except OSError as error:  # the next start settles it again
                    log.warning("the names of image %s cannot be written: %s", record.id, error)


def decode(data: bytes) -> Record:
    """Return the record that ``data`` holds.

    Raises:
        FailedPrecondition: its format is not known here.
        msgspec.MsgspecError: it is malformed.
    """
    record = msgspec.json.decode(data, type=Record)
    if record.version != VERSION:
        raise FailedPrecondition(f"format {record.version} of an image record is not known")
    return record


def _without(entries: dict[str, T], key: str) -> dict[str, T]:
    return {name: value for name, value in entries.items() if name != key}


def _union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _image(record: Record, config: manifest.Config, pinned: tuple[str, ...]) -> Image:
    names = (*record.tags, *record.digests)
    return Image(
        id=record.id,
        repo_tags=tuple(sorted(record.tags)),
        repo_digests=record.digests,
        chain_ids=digest.chain_ids(config.diff_ids),
        diff_ids=config.diff_ids,
        size_bytes=max(1, record.size_bytes),
        config=config.execution,
        platform=config.platform,
        created=config.created,
        pinned=record.pinned or any(fnmatch.fnmatch(name, glob) for name in names for glob in pinned),
    )
