"""Layers at random: what an archive holds is unpacked and verifies as whole, or is refused as malformed.

``CRI_SHIM_FUZZ_LAYERS`` says how many of each kind; ``CRI_SHIM_FUZZ_SEED`` where to begin.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shim.errors import ShimError
from shim.images import deferred
from shim.images.unpack import check, worker
from shim.images.unpack.meter import Meter

pytestmark = pytest.mark.root

COUNT = int(os.environ.get("CRI_SHIM_FUZZ_LAYERS", "300"))
SEED = int(os.environ.get("CRI_SHIM_FUZZ_SEED", "1"))
JOB = {"digest": "", "size": -1, "offset": -1, "diff_id": "", "aliases": {}, "entries": 999, "bytes": 1 << 24}
NAMES = (
    "a",
    "b",
    "c",
    "a/b",
    "a/c",
    "b/a",
    "a/b/c",
    "b/a/c",
    "c/c/c",
    ".",
    "./a",
    "/b",
    "a/",
    "..",
    "b/../c",
)
MARKS = (
    ".wh.a",
    ".wh.b",
    "a/.wh.b",
    "a/.wh..wh..opq",
    ".wh..wh..opq",
    "b/.wh.a",
    "a/b/.wh.c",
    ".wh..wh.aufs",
)
TARGETS = ("a", "b", "a/b", "/a", "../..", "../../etc", "/", "c/c", ".")
KINDS = (tarfile.REGTYPE,) * 4 + (tarfile.DIRTYPE,) * 3 + (tarfile.SYMTYPE,) * 2 + (tarfile.LNKTYPE,) * 2


@pytest.fixture(autouse=True)
def umask() -> Any:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "layer"
    (tmp_path / "outside").write_text("host")
    return path


def unpack(place: Path, data: bytes) -> str:
    """Unpack, settle and verify one archive in this process; return what was wrong with it, if anything."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place.parent / "stream").write_bytes(data)
    layer_fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
    source_fd = os.open(place.parent / "stream", os.O_RDONLY)
    meter, meter_fd = Meter.make()
    try:
        worker.unpack(layer_fd, source_fd, meter, JOB)
        deferred.settle(str(place), [])
        assert check.check(layer_fd, json.loads((place / "layer.json").read_bytes())) == []
    except (ShimError, OSError) as error:
        answer = worker.describe(error)
        assert answer.get("errno") in (None, errno.EPERM, errno.EINVAL), answer
        return str(answer["error"])
    finally:
        os.close(layer_fd)
        os.close(source_fd)
        os.close(meter_fd)
        meter.close()
        assert (place.parent / "outside").read_text() == "host"
        assert sorted(os.listdir(place.parent)) == ["layer", "outside", "stream"]
    return ""


def entry(chance: random.Random) -> tuple[str, Any]:
    if chance.random() < 0.25:
        return chance.choice(MARKS), b""
    kind = chance.choice((*KINDS, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE))
    facts: dict[str, Any] = {
        "type": kind,
        "mode": chance.choice((0o644, 0o755, 0o4711, 0o1777, 0o2755, 0)),
        "uid": chance.choice((0, 7, 70_000)),
        "mtime": chance.choice((0, 1, 1_700_000_000, -5, 1 << 40)),
        "linkname": chance.choice(TARGETS),
        "devmajor": chance.choice((0, 1)),
        "devminor": chance.choice((0, 3)),
    }
    if kind == tarfile.REGTYPE:
        facts["data"] = chance.randbytes(chance.choice((0, 1, 511, 512, 513, 5000)))
    return chance.choice(NAMES), facts


def test_entries_at_random(place: Path, tools: Any) -> None:
    whole = 0
    for number in range(COUNT):
        chance = random.Random(SEED + number)  # noqa: S311
        data = tools.tar(*(entry(chance) for _ in range(chance.randint(1, 9))))
        try:
            whole += not unpack(place, data)
        except BaseException:
            print(f"seed {SEED + number}:", tarfile_text(data))  # noqa: T201 - pytest shows it
            raise
    assert whole > COUNT / 10


def tarfile_text(data: bytes) -> str:
    import io

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return str([(member.name, member.type, member.linkname) for member in archive])


def test_bytes_at_random(place: Path, tools: Any) -> None:
    """Flip, cut and repeat bytes of headers, with checksums made right again."""
    seeds = [entry(random.Random(number)) for number in range(40)]  # noqa: S311
    headers = {"SCHILY.xattr.user.a": "b", "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "path": "x"}
    seeds.append(("pax", {"data": b"1\n0\n1\n" + bytes(600), "pax_headers": headers}))
    for number in range(COUNT):
        chance = random.Random(SEED + number)  # noqa: S311
        data = bytearray(tools.tar(*chance.sample(seeds, 4)))
        for _ in range(chance.randint(1, 6)):
            block = chance.randrange(len(data) // 512) * 512
            at = block + chance.choice((0, 100, 108, 116, 124, 136, 156, 157, 257, 329, 345, 386, 482))
            value = chance.choice((b"\xff" * 12, b"\x80" + bytes(11), b"77777777777", b"\0", b"S", b"x"))
            data[at : at + len(value)] = value
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
        try:
            end = chance.choice((len(data), chance.randrange(1, len(data))))
            unpack(place, bytes(data[:end]))
        except BaseException:
            print(f"seed {SEED + number}")  # noqa: T201 - pytest shows it
            raise
