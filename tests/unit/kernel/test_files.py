import errno
import os
from pathlib import Path

import pytest

from shim.errors import KernelError
from shim.kernel import files


@pytest.mark.parametrize("durable", [False, True])
def test_write_atomic_replaces(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "record"
    files.write_atomic(path, b"old", mode=0o644, durable=durable)
    files.write_atomic(path, b"new", durable=durable)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["record"]


def test_write_atomic_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/x").touch()
    with pytest.raises(KernelError) as caught:
        files.write_atomic(tmp_path / "taken", b"data")
    assert caught.value.errno == errno.EISDIR
    assert os.listdir(tmp_path) == ["taken"]


def test_write_atomic_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="absent/record"):
        files.write_atomic(tmp_path / "absent/record", b"")


def test_write_all_goes_on_after_a_short_write() -> None:
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            files.write_all(writer, b"x" * (1 << 20))
        assert len(os.read(reader, 1 << 20)) > 0
    finally:
        os.close(reader)
        os.close(writer)


def test_disk_usage_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/a").write_bytes(b"x" * 10_000)
    one = files.disk_usage(tmp_path)
    os.link(tmp_path / "dir/a", tmp_path / "b")
    assert files.disk_usage(tmp_path) == one
    assert one[0] >= 10_000
    assert one[1] == 2


def test_xattrs(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    try:
        files.set_xattr(str(path), "user.colour", b"\x00red")
    except KernelError as error:
        if error.errno == errno.ENOTSUP:
            pytest.skip("this file system has no user xattrs")
        raise
    fd = os.open(path, os.O_RDONLY)
    try:
        assert dict(files.list_xattrs(fd))["user.colour"] == b"\x00red"
    finally:
        os.close(fd)
    assert dict(files.list_xattrs(str(path)))["user.colour"] == b"\x00red"


def test_fd_path_reaches_a_name_below_a_descriptor(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert Path(os.fsdecode(files.fd_path(fd, "x"))).read_bytes() == b"1"
        assert os.path.samefile(files.fd_path(fd), tmp_path)
    finally:
        os.close(fd)


def test_a_file_is_written_over_in_the_room_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"longer than that")
    inode = path.stat().st_ino
    files.overwrite(str(path), b"short", filler=b"\n")
    assert path.read_bytes() == b"short" + b"\n" * 11
    files.overwrite(str(path), b"longer than it ever was", filler=b"\n")
    assert path.read_bytes() == b"longer than it ever was"
    assert path.stat().st_ino == inode
    with pytest.raises(KernelError):
        files.overwrite(str(tmp_path / "none"), b"", filler=b"\n")


def test_a_file_that_finds_no_room_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def finds_some(fd: int, offset: int, length: int) -> None:  # as ext4 does where blocks run out
        os.ftruncate(fd, offset + length - 1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", finds_some)
    with pytest.raises(KernelError, match="No space left"):
        files.overwrite(str(path), b"longer than it was", filler=b"\n")
    assert path.read_bytes() == b"old"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    others = {"record.json", ".hidden", "x.tmp", ".record.json.tmp"}
    for name in (*others, ".record.json.0123abcd.tmp"):
        (tmp_path / name).write_text("")
    files.remove_temporaries(str(tmp_path))
    assert {each.name for each in tmp_path.iterdir()} == others
    files.remove_temporaries(str(tmp_path / "missing"))
