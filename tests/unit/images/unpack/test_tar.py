import io
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.images.unpack import tar


def make(*members: tuple[dict[str, Any], bytes], dialect: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect) as archive:
        for fields, data in members:
            info = tarfile.TarInfo()
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read(data: bytes, step: int = 1 << 20) -> tuple[list[tar.Entry], list[bytes], bytes]:
    """Return (entries, content of each, the stream put together again)."""
    reader = tar.TarReader()
    entries: list[tar.Entry] = []
    contents: list[bytes] = []
    stream = bytearray()
    for start in range(0, len(data), step):
        for event in reader.feed(data[start : start + step]):
            if isinstance(event, tar.Entry):
                entries.append(event)
                contents.append(b"")
            elif isinstance(event, tar.Raw):
                stream += event.data
            else:
                contents[-1] += bytes(event.data)
                stream += event.data
    reader.close()
    return entries, contents, bytes(stream)


EVERYTHING = (
    ({"name": "d", "type": tarfile.DIRTYPE, "mode": 0o1755}, b""),
    ({"name": "d/" + "n" * 150, "uid": 3_000_000, "gid": 7}, b"x" * 1000),
    ({"name": "l", "type": tarfile.SYMTYPE, "linkname": "../" + "t" * 200}, b""),
    ({"name": "h", "type": tarfile.LNKTYPE, "linkname": "d/f"}, b""),
    ({"name": "c", "type": tarfile.CHRTYPE, "devmajor": 5, "devminor": 300}, b""),
    ({"name": "b", "type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 1}, b""),
    ({"name": "p", "type": tarfile.FIFOTYPE}, b""),
    ({"name": "empty", "mtime": 1.0}, b""),
)


@pytest.mark.parametrize("dialect", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("step", [1, 7, 512, 1 << 20])
def test_every_kind_is_read_whole_and_in_pieces(dialect: int, step: int) -> None:
    data = make(*EVERYTHING, dialect=dialect)
    entries, contents, stream = read(data, step)
    assert stream == data
    assert [chr(entry.kind) for entry in entries] == list("50213460")
    assert entries[1].path == b"d/" + b"n" * 150
    assert (entries[1].uid, entries[1].gid, entries[1].size) == (3_000_000, 7, 1000)
    assert contents[1] == b"x" * 1000
    assert entries[2].link == b"../" + b"t" * 200
    assert entries[4].device == (5, 300)
    assert entries[0].mode == 0o1755


def test_extended_headers_count() -> None:
    headers = {
        "mtime": "1700000000.123456789",
        "SCHILY.xattr.user.a": "value",
        "path": "ünï/cödé",
        "comment": "of no matter",
    }
    (entry,), _, _ = read(make(({"name": "short", "pax_headers": headers}, b"")))
    assert entry.mtime_ns == 1_700_000_000_123_456_789
    assert entry.xattrs == {b"user.a": b"value"}
    assert entry.path == "ünï/cödé".encode()


def test_an_old_archive_marks_a_directory_by_its_slash() -> None:
    block = bytearray(make(({"name": "old/"}, b""), dialect=tarfile.USTAR_FORMAT)[:512])
    block[156:157] = b"\0"
    block[0:4] = b"old/"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (entry,), _, _ = read(bytes(block) + bytes(1024))
    assert entry.kind == tar.DIRECTORY


def sparse_1_0(parts: list[tuple[int, bytes]], size: int) -> bytes:
    listing = f"{len(parts)}\n" + "".join(f"{offset}\n{len(data)}\n" for offset, data in parts)
    head = listing.encode().ljust(-(-len(listing) // 512) * 512, b"\0")
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "real",
        "GNU.sparse.realsize": str(size),
    }
    body = head + b"".join(data for _, data in parts)
    return make(({"name": "GNUSparseFile.0/real", "pax_headers": headers}, body))


@pytest.mark.parametrize("step", [1, 511, 1 << 20])
def test_a_sparse_file_has_its_map(step: int) -> None:
    data = sparse_1_0([(1000, b"a" * 10), (5000, b"b" * 600)], 10_000)
    (entry,), (content,), stream = read(data, step)
    assert (entry.path, entry.size, entry.stored) == (b"real", 10_000, 610)
    assert entry.segments == [(1000, 10), (5000, 600)]
    assert content == b"a" * 10 + b"b" * 600
    assert stream == data


@pytest.mark.parametrize(
    "parts", [[(9_995, b"too far")], [(500, b"later"), (0, b"first")], [(-5, b"before")]]
)
def test_a_sparse_map_that_does_not_fit_is_refused(parts: list[tuple[int, bytes]]) -> None:
    with pytest.raises(InvalidArgument, match="malformed layer"):
        read(sparse_1_0(parts, 10_000))


def header(**fields: bytes) -> bytes:
    """Return an archive of one empty file with some bytes of its header replaced and the sum corrected."""
    places = {"size": 124, "type": 156, "uid": 108, "mode": 100}
    block = bytearray(make(({"name": "f"}, b""))[:512])
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


@pytest.mark.parametrize(
    "data",
    [
        header(size=b"hello world\0"),
        header(size=b"\x80" + b"\xff" * 11),
        header(size=b"\xff" * 12),
        header(type=b"Q"),
        header(type=b"x", size=b"77777777777\0"),
        b"no archive at all".ljust(512, b"!"),
        make(({"name": "f"}, b"x"))[:512],
        make(({"name": "f", "pax_headers": {"size": "x"}}, b"")),
        make(({"name": "f", "pax_headers": {"mtime": "now"}}, b"")),
        bytes(512) + make(({"name": "f"}, b"")),
        b"short",
    ],
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="malformed layer"):
        read(data)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=130)


@given(st.lists(st.tuples(names, st.binary(max_size=1200)), max_size=5), st.integers(1, 1500))
def test_the_stream_can_always_be_put_together_again(files: list[tuple[str, bytes]], step: int) -> None:
    data = make(*(({"name": name}, content) for name, content in files))
    entries, contents, stream = read(data, step)
    assert stream == data
    assert len(entries) == len(files)
    for entry, content, (name, wanted) in zip(entries, contents, files, strict=True):
        assert (entry.kind, entry.path, content) == (tar.FILE, name.encode(), wanted)


@given(st.binary(max_size=3000), st.integers(0, 2000))
def test_any_bytes_are_read_or_refused(noise: bytes, place: int) -> None:
    data = bytearray(make(*EVERYTHING))
    data[place : place + len(noise)] = noise
    try:
        _, _, stream = read(bytes(data))
    except InvalidArgument:
        return
    assert stream == bytes(data)


def test_a_sparse_map_that_comes_in_thousands_of_blocks_is_read_once() -> None:
    """Taken apart at each block, it would take the square of its length: minutes for each file."""
    parts = 60_000
    text = b"%d\n" % parts + b"".join(b"%d\n0\n" % number for number in range(parts))
    stored = text + bytes(-len(text) % 512)
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(parts)}
    info = tarfile.TarInfo("f")
    info.size, info.pax_headers = len(stored), records
    archive = info.tobuf(tarfile.PAX_FORMAT) + stored
    events = [event for _ in range(20) for event in tar.TarReader().feed(archive)]
    assert [event.segments for event in events if isinstance(event, tar.Entry)] == [[]] * 20


def test_records_for_all_entries_are_few() -> None:
    info = tarfile.TarInfo("f")
    archive = tarfile.TarInfo.create_pax_global_header({f"SCHILY.xattr.user.{n}": "1" for n in range(101)})
    with pytest.raises(InvalidArgument, match="too many records that are for all entries"):
        tar.TarReader().feed(archive + info.tobuf())
