"""A tar stream as events, without I/O: bytes in, entries and content out.

All dialects that images carry: v7, ustar, pax (long names, xattrs, nanoseconds, numbers of any size), GNU
(long names and links, base-256 numbers, sparse files in all four formats). Content is handed on as it comes
and never held. ``Raw`` carries every byte that is not a file's content, in order, so that the stream can be
written again from the unpacked files, bit for bit (see ``record``).

Source: POSIX.1-2001 pax, ustar; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from shim.errors import InvalidArgument
from shim.images.unpack import header, pax

BLOCK: Final = 512
_ZERO: Final = bytes(BLOCK)
_MAX_GLOBAL: Final = 100  # records: each is applied to each entry; builders write one
_META_LIMIT: Final = 1 << 20  # longest extended header; Go's archive/tar has the same limit

FILE: Final = 0x30
HARD_LINK: Final = 0x31
SYMLINK: Final = 0x32
CHAR_DEVICE: Final = 0x33
BLOCK_DEVICE: Final = 0x34
DIRECTORY: Final = 0x35
FIFO: Final = 0x36
_KINDS: Final = frozenset((FILE, HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO))
_OLD_FILE: Final = 0x00
_CONTIGUOUS: Final = 0x37
_GNU_SPARSE: Final = 0x53
_GNU_LONG_LINK: Final = 0x4B
_GNU_LONG_NAME: Final = 0x4C
_PAX: Final = 0x78
_PAX_GLOBAL: Final = 0x67
_META: Final = frozenset((_GNU_LONG_LINK, _GNU_LONG_NAME, _PAX, _PAX_GLOBAL))


@dataclass(slots=True)
class Entry:
    """One member of the archive.

    Attributes:
        kind: FILE, HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, DIRECTORY or FIFO.
        path: as the archive has it: hostile.
        link: target of a symbolic or hard link: hostile.
        stored: bytes of content that follow in the archive.
        size: length of the file when unpacked; more than ``stored`` for a sparse file.
        segments: where the stored bytes go in a sparse file, else None.
    """

    kind: int
    path: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    stored: int = 0
    size: int = 0
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    segments: pax.Segments | None = None


@dataclass(slots=True)
class Raw:
    """Bytes of the stream that are not content of a file."""

    data: bytes


@dataclass(slots=True)
class Data:
    """Content of the entry that came last."""

    data: memoryview


Event = Entry | Raw | Data


class TarReader:
    """Turns the bytes of a tar archive, in pieces of any length, into events."""

    def __init__(self) -> None:
        self._rest = b""
        self._content = 0  # bytes of content still to come
        self._padding = 0
        self._meta: bytearray | None = None
        self._meta_kind = 0
        self._meta_left = 0
        self._meta_padding = 0
        self._zeros = 0
        self._global: dict[bytes, bytes] = {}
        self._pax: list[tuple[bytes, bytes]] = []
        self._long: dict[int, bytes] = {}
        self._sparse: Entry | None = None  # waits for the rest of its map
        self._sparse_gnu = False
        self._sparse_map = b""

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes, return what they complete.

        Raises:
            InvalidArgument: this is no tar archive, or it contradicts itself.
        """
        buffer = self._rest + data if self._rest else data
        view = memoryview(buffer)
        events: list[Event] = []
        end = len(buffer)
        pos = raw = 0
        while pos < end:
            if self._content:
                take = min(self._content, end - pos)
                events.append(Data(view[pos : pos + take]))
                self._content -= take
                pos = raw = pos + take
            elif self._padding:
                take = min(self._padding, end - pos)
                self._padding -= take
                pos += take
            elif self._meta is not None:
                take = min(self._meta_left, end - pos)
                self._meta += view[pos : pos + take]
                self._meta_left -= take
                pos += take
                if not self._meta_left:
                    self._end_meta(bytes(self._meta))
            elif self._zeros == 2:
                pos = end
            elif end - pos < BLOCK:
                break
            else:
                entry = self._block(buffer[pos : pos + BLOCK])
                pos += BLOCK
                if entry is not None:
                    events.append(Raw(buffer[raw:pos]))
                    events.append(entry)
                    raw = pos
        if raw < pos:
            events.append(Raw(buffer[raw:pos]))
        self._rest = buffer[pos:]
        return events

    def close(self) -> None:
        """Say that the stream is over.

        Raises:
            InvalidArgument: it ended in the middle of an entry.
        """
        if self._rest or self._content or self._meta is not None or self._sparse or self._pax or self._long:
            raise InvalidArgument("malformed layer: the archive ends in the middle of an entry")

    def _block(self, block: bytes) -> Entry | None:
        if self._sparse is not None:
            return self._sparse_block(block)
        if block == _ZERO:
            self._zeros += 1
            return None
        if self._zeros:
            raise InvalidArgument("malformed layer: data after the first end-of-archive block")
        header.check_sum(block)
        kind = block[156]
        size = header.number(block, 124, 12)
        if kind in _META:
            if not 0 <= size <= _META_LIMIT:
                raise InvalidArgument(f"malformed layer: an extended header of {size} bytes")
            self._meta, self._meta_kind, self._meta_left = bytearray(), kind, size
            self._meta_padding = -size % BLOCK
            if not size:
                self._end_meta(b"")
            return None
        return self._entry(block, kind, size)

    def _end_meta(self, data: bytes) -> None:
        self._meta = None
        self._padding = self._meta_padding
        if self._meta_kind == _PAX_GLOBAL:
            for key, value in pax.parse_records(data):
                self._global[key] = value
            if len(self._global) > _MAX_GLOBAL:
                raise InvalidArgument("malformed layer: too many records that are for all entries")
        elif self._meta_kind == _PAX:
            self._pax = pax.parse_records(data)
        else:
            self._long[self._meta_kind] = data.split(b"\0", 1)[0]

    def _entry(self, block: bytes, kind: int, size: int) -> Entry | None:
        path = header.text(block, 0, 100)
        if block[257:263] == b"ustar\0":
            prefix = header.text(block, 345, 155)
            if prefix:
                path = prefix + b"/" + path
        entry = Entry(
            kind,
            path,
            header.text(block, 157, 100),
            header.number(block, 100, 8) & 0o7777,
            header.number(block, 108, 8),
            header.number(block, 116, 8),
            header.number(block, 136, 12) * 1_000_000_000,
            size,
        )
        if kind in (CHAR_DEVICE, BLOCK_DEVICE):
            entry.device = (header.number(block, 329, 8), header.number(block, 337, 8))
        if self._long:
            entry.path = self._long.get(_GNU_LONG_NAME, entry.path)
            entry.link = self._long.get(_GNU_LONG_LINK, entry.link)
            self._long = {}
        records = [*self._global.items(), *self._pax] if self._global else self._pax
        self._pax = []
        for key, value in records:
            _apply(entry, key, value)
        self._settle_kind(entry)
        if kind not in (FILE, _OLD_FILE, _CONTIGUOUS, _GNU_SPARSE):
            # Some archivers give a size to links and directories; no content follows (as Go reads it).
            entry.stored = 0
        if entry.stored < 0 or entry.stored >= 1 << 62:
            raise InvalidArgument(f"malformed layer: entry {entry.path!r} has the size {entry.stored}")
        entry.size = entry.stored
        return self._start_sparse(entry, block, kind, records)

    @staticmethod
    def _settle_kind(entry: Entry) -> None:
        if entry.kind == _OLD_FILE and entry.path.endswith(b"/"):
            entry.kind = DIRECTORY
        if entry.kind in (_OLD_FILE, _CONTIGUOUS, _GNU_SPARSE):
            entry.kind = FILE
        if entry.kind not in _KINDS:
            raise InvalidArgument(f"malformed layer: entry {entry.path!r} is of unknown type {entry.kind:#x}")

    def _start_sparse(
        self, entry: Entry, block: bytes, kind: int, records: list[tuple[bytes, bytes]]
    ) -> Entry | None:
        if entry.kind == FILE:
            if kind == _GNU_SPARSE:
                entry.size = header.number(block, 483, 12)
                entry.segments = []
                header.gnu_segments(block, 386, 4, entry.segments)
                if block[482]:
                    self._sparse, self._sparse_gnu = entry, True
                    return None
                return self._ready(entry)
            if records and any(key.startswith(b"GNU.sparse.") for key, _ in records):
                return self._start_sparse_pax(entry, dict(records), pax.parse_sparse_pax(records))
        return self._ready(entry)

    def _start_sparse_pax(
        self, entry: Entry, keys: dict[bytes, bytes], segments: pax.Segments | None
    ) -> Entry | None:
        entry.path = keys.get(b"GNU.sparse.name", entry.path)
        size = keys.get(b"GNU.sparse.realsize", keys.get(b"GNU.sparse.size"))
        if size is None:
            return self._ready(entry)
        entry.size = pax.parse_int(size, "a sparse size")
        if keys.get(b"GNU.sparse.major") == b"1":
            self._sparse, self._sparse_gnu, self._sparse_map = entry, False, b""
            return None
        entry.segments = segments or []
        return self._ready(entry)

    def _sparse_block(self, block: bytes) -> Entry | None:
        entry = self._sparse
        if entry is None:  # only called with one
            return None
        if self._sparse_gnu:
            segments = entry.segments or []
            header.gnu_segments(block, 0, 21, segments)
            if block[504]:
                return None
            entry.segments = segments
        else:
            self._sparse_map += block
            entry.stored -= BLOCK
            found = pax.parse_sparse_1_0(self._sparse_map)
            if entry.stored < 0 or len(self._sparse_map) > _META_LIMIT:
                raise InvalidArgument(f"malformed layer: the sparse map of {entry.path!r} is too long")
            if found is None:
                return None
            entry.segments = found
        self._sparse = None
        return self._ready(entry)

    def _ready(self, entry: Entry) -> Entry:
        if entry.segments is not None:
            # Trailing parts of length 0 only say how long the file is.
            entry.segments = [part for part in entry.segments if part[1]]
            pax.check_segments(entry.segments, entry.stored, entry.size)
        self._content = entry.stored
        self._padding = -entry.stored % BLOCK
        return entry


def _apply(entry: Entry, key: bytes, value: bytes) -> None:
    """Let one record of an extended header override what the plain header said."""
    if key == b"path":
        entry.path = value
    elif key == b"linkpath":
        entry.link = value
    elif key == b"mtime":
        entry.mtime_ns = pax.parse_time_ns(value)
    elif key == b"size":
        entry.stored = pax.parse_int(value, "a size")
    elif key == b"uid":
        entry.uid = pax.parse_int(value, "a uid")
    elif key == b"gid":
        entry.gid = pax.parse_int(value, "a gid")
    elif key.startswith(pax.XATTR_PREFIX):
        entry.xattrs[key[len(pax.XATTR_PREFIX) :]] = value
