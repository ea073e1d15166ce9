"""Copies of directories: everything that belongs to them, and no way out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.runtime.copying import copy_directory


def copied(source: Path, target: Path) -> None:
    target.mkdir()
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    try:
        copy_directory(*fds)
    finally:
        for fd in fds:
            os.close(fd)


def test_contents_modes_times_attributes_and_links_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub/empty").mkdir(parents=True)
    (source / "file").write_bytes(b"x" * 100_000)
    os.link(source / "file", source / "sub/same")
    os.link(source / "file", source / "zzz")
    (source / "sub/link").symlink_to("/etc/passwd")
    (source / "dangling").symlink_to("../../out")
    os.mkfifo(source / "fifo")
    os.setxattr(source / "file", "user.note", b"\xff")
    for path, mode in (("file", 0o4750), ("sub/empty", 0o1777), ("fifo", 0o604), ("sub", 0o500), ("", 0o711)):
        (source / path).chmod(mode)
        os.utime(source / path, ns=(1, 1_000_000_007))
    copied(source, tmp_path / "target")
    assert described(tmp_path / "target") == described(source)
    assert os.getxattr(tmp_path / "target/file", "user.note") == b"\xff"
    assert os.stat(tmp_path / "target/zzz").st_nlink == 3
    assert (tmp_path / "target/file").read_bytes() == b"x" * 100_000
    (source / "sub").chmod(0o700)
    (tmp_path / "target/sub").chmod(0o700)


def described(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in (root, *root.rglob("*")):
        info = path.lstat()
        times = () if path.is_symlink() else (info.st_mtime_ns,)
        leads = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(root))] = (stat.filemode(info.st_mode), info.st_uid, leads, *times)
    return found


def test_no_link_is_followed(tmp_path: Path) -> None:
    """What is a link in the source, at any depth, is one in the copy: nothing of the node is read."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/directory").symlink_to(secret)
    (tmp_path / "source/file").symlink_to(secret / "key")
    copied(tmp_path / "source", tmp_path / "target")
    assert sorted(os.listdir(tmp_path / "target")) == ["directory", "file"]
    assert all(path.is_symlink() for path in (tmp_path / "target").iterdir())


def test_a_bottomless_tree_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / "source"
    deep.mkdir()
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(InvalidArgument, match="nested deeper"):
        copied(deep, tmp_path / "target")
