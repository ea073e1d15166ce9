"""What a layer's archive had besides the content of its files, so that it can be written again bit for bit.

No compressed copy of a layer is kept: its files lie unpacked, and the rest of the tar stream (headers,
padding, the order of things) goes into a record beside them. From both the stream is assembled again: with
it an image is saved with the same diff ids, and a layer on disk is verified.

Format, version 1, compressed by zstd: a sequence of frames. ``R`` + u32 length + bytes: as they are.
``C`` + u32 length of path + u64 offset + u64 size + path: that part of that file. All little-endian. Frames
of kind ``C`` are numbered from 0; a file that a later entry of the same archive replaced was moved aside, and
the layer's ``displaced`` list says since which frame.
"""

from __future__ import annotations

import bisect
import os
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, Protocol

import zstandard

from shim.errors import FailedPrecondition
from shim.kernel import paths

_RAW: Final = struct.Struct("<cI")
_CONTENT: Final = struct.Struct("<cIQQ")
_FLUSH_AT: Final = 1 << 18
_CHUNK: Final = 1 << 20

Displaced = tuple[int, bytes, str]
"""(first content frame after the move, path it had, name below ``displaced``)."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class RecordWriter:
    """Writes the record while the layer is unpacked. ``frames`` counts the content frames so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor: _Compressor = zstandard.ZstdCompressor(level=1).compressobj()
        self._buffer = bytearray()
        self.frames = 0

    def raw(self, data: bytes | memoryview) -> None:
        """Add bytes of the stream as they are."""
        self._buffer += _RAW.pack(b"R", len(data))
        self._buffer += data
        self._flush_if_full()

    def content(self, path: bytes, offset: int, size: int) -> None:
        """Add a reference to a part of an unpacked file."""
        self._buffer += _CONTENT.pack(b"C", len(path), offset, size)
        self._buffer += path
        self.frames += 1
        self._flush_if_full()

    def close(self) -> None:
        """Write what is left; the file stays open."""
        self._flush()
        self._file.write(self._compressor.flush())
        self._file.flush()

    def _flush_if_full(self) -> None:
        if len(self._buffer) > _FLUSH_AT:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._compressor.compress(bytes(self._buffer)))
        self._buffer.clear()


def assemble(layer_fd: int, displaced: Sequence[Displaced]) -> Iterator[bytes]:
    """Yield the uncompressed tar stream of an unpacked layer, as it came.

    Args:
        layer_fd: the layer's directory: ``fs``, ``tar.zst`` and maybe ``displaced`` are below.
        displaced: from the layer's record.

    Raises:
        FailedPrecondition: a file of the layer is missing or shorter than it was.
    """
    root_fd = os.open("fs", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=layer_fd)
    try:
        with open(paths.open_beneath(layer_fd, "tar.zst", os.O_RDONLY), "rb") as file:
            with zstandard.ZstdDecompressor().stream_reader(file, read_size=1 << 18) as stream:
                number, moved = 0, _Moved(displaced)
                while kind := stream.read(1):
                    if kind == b"R":
                        yield _exactly(stream, int.from_bytes(_exactly(stream, 4), "little"))
                        continue
                    length, offset, size = struct.unpack("<IQQ", _exactly(stream, 20))
                    path = _exactly(stream, length)
                    yield from _read_part(layer_fd, root_fd, moved.locate(path, number), offset, size)
                    number += 1
    except (zstandard.ZstdError, OSError) as error:
        raise FailedPrecondition(f"a layer is damaged: cannot read its record or files: {error}") from error
    finally:
        os.close(root_fd)


def _exactly(stream: zstandard.ZstdDecompressionReader, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise FailedPrecondition("a layer is damaged: its record ends too early")
    return bytes(data)


class _Moved:
    """Where files lie that a later entry of their archive replaced: the first move after them counts."""

    def __init__(self, displaced: Sequence[Displaced]) -> None:
        self._moves: dict[bytes, list[tuple[int, int, str]]] = {}  # old path -> (since, which move, name)
        for number, (since, old, name) in enumerate(displaced):
            self._moves.setdefault(old, []).append((since, number, name))

    def locate(self, path: bytes, frame: int) -> tuple[str | None, bytes]:
        """Return (name below ``displaced`` or None, path below that) of the file that a frame means."""
        found: tuple[int, str, int] | None = None
        end = len(path) if self._moves else 0
        while end > 0:
            moves = self._moves.get(path[:end], ())
            later = bisect.bisect_right(moves, frame, key=_since)
            if later < len(moves) and (found is None or moves[later][1] < found[0]):
                found = moves[later][1], moves[later][2], end
            end = path.rfind(b"/", 0, end)
        return (found[1], path[found[2] + 1 :]) if found is not None else (None, path)


def _since(move: tuple[int, int, str]) -> int:
    return move[0]


def _read_part(
    layer_fd: int, root_fd: int, place: tuple[str | None, bytes], offset: int, size: int
) -> Iterator[bytes]:
    name, path = place
    if name is None:
        fd = paths.open_in_root(root_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    else:
        whole = b"displaced/" + os.fsencode(name) + (b"/" + path if path else b"")
        fd = paths.open_beneath(layer_fd, whole, os.O_RDONLY | os.O_NONBLOCK, follow_symlinks=False)
    try:
        while size:
            data = os.pread(fd, min(size, _CHUNK), offset)
            if not data:
                raise FailedPrecondition(f"a layer is damaged: {os.fsdecode(path)!r} is shorter than it was")
            yield data
            offset += len(data)
            size -= len(data)
    finally:
        os.close(fd)
