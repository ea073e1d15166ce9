import bz2
import gzip
import hashlib
import io
import lzma

import pytest
import zstandard

from shim.errors import InvalidArgument
from shim.images.unpack import decompress

PLAIN = hashlib.shake_256(b"noise").digest(100_000) + bytes(3 << 20)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0meta"


def packed(data: bytes) -> dict[str, bytes]:
    zstd = zstandard.ZstdCompressor(write_checksum=True)
    half = len(data) // 2
    return {
        "none": data,
        "gzip": gzip.compress(data),
        "gzip of two members": gzip.compress(data[:half]) + gzip.compress(data[half:]),
        "gzip with zeros after it": gzip.compress(data) + bytes(700),
        "zstd": zstd.compress(data),
        "zstd of two frames": zstd.compress(data[:half]) + SKIPPABLE + zstd.compress(data[half:]),
        "zstd that begins with a skippable frame": SKIPPABLE + zstd.compress(data),
        "xz": lzma.compress(data),
        "xz of two streams": lzma.compress(data[:half]) + lzma.compress(data[half:]),
        "bzip2": bz2.compress(data),
        "bzip2 of two streams": bz2.compress(data[:half]) + bz2.compress(data[half:]),
    }


@pytest.mark.parametrize("form", packed(b"").keys())
def test_every_form_gives_the_plain_bytes_in_bounded_pieces(form: str) -> None:
    pieces = list(decompress.read_chunks(io.BytesIO(packed(PLAIN)[form])))
    assert b"".join(pieces) == PLAIN
    assert max(map(len, pieces)) <= decompress.CHUNK


@pytest.mark.parametrize("form", ["gzip", "zstd", "xz", "bzip2"])
def test_damage_is_found(form: str) -> None:
    data = packed(PLAIN)[form]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    with pytest.raises(InvalidArgument, match=f"the {form} data"):
        list(decompress.read_chunks(io.BytesIO(bytes(flipped))))


def test_gzip_that_ends_too_early_is_found() -> None:
    with pytest.raises(InvalidArgument, match="ends too early"):
        list(decompress.read_chunks(io.BytesIO(gzip.compress(PLAIN)[:-9])))


@pytest.mark.parametrize("data", [b"", b"a", b"abc"])
def test_short_input_is_plain(data: bytes) -> None:
    assert decompress.detect(data) == "none"
    assert b"".join(decompress.read_chunks(io.BytesIO(data))) == data
