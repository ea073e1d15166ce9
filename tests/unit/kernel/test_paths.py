import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import KernelError
from shim.kernel import paths


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(fd: int) -> bytes:
    with open(fd, "rb") as f:
        return f.read()


def test_links_and_dots_stay_in_the_root(tmp_path: Path, root_fd: int) -> None:
    root = tmp_path / "root"
    (tmp_path / "secret").write_bytes(b"host")
    (root / "secret").write_bytes(b"inside")
    (root / "dots").symlink_to("../../../secret")
    (root / "absolute").symlink_to("/secret")
    for path in ("dots", "absolute", "../secret", "/../secret"):
        assert read(paths.open_in_root(root_fd, path, os.O_RDONLY)) == b"inside"


def test_beneath_refuses_what_leaves(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "secret").write_bytes(b"host")
    (tmp_path / "root/link").symlink_to("../secret")
    for path in ("link", "../secret", str(tmp_path / "secret")):
        with pytest.raises(KernelError) as caught:
            paths.open_beneath(root_fd, path, os.O_RDONLY)
        assert caught.value.errno == errno.EXDEV
        assert caught.value.syscall == "openat2"


def test_beneath_without_links(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "root/file").write_bytes(b"x")
    (tmp_path / "root/link").symlink_to("file")
    assert read(paths.open_beneath(root_fd, "link", os.O_RDONLY)) == b"x"
    with pytest.raises(KernelError) as caught:
        paths.open_beneath(root_fd, "link", os.O_RDONLY, follow_symlinks=False)
    assert caught.value.errno == errno.ELOOP


def test_nul_in_a_path_is_refused(root_fd: int) -> None:
    with pytest.raises(KernelError) as caught:
        paths.open_in_root(root_fd, b"a\0b", os.O_RDONLY)
    assert caught.value.errno == errno.EINVAL


def made(root_fd: int, path: str) -> str:
    fd = paths.mkdir_in_root(root_fd, path)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def test_mkdir_makes_parents_and_is_idempotent(tmp_path: Path, root_fd: int) -> None:
    for _ in range(2):
        assert made(root_fd, "/a/./b//c") == str(tmp_path / "root/a/b/c")


@pytest.mark.parametrize("target", ["/run", "run", "../../../run"])
def test_mkdir_follows_links_inside_even_dangling(tmp_path: Path, root_fd: int, target: str) -> None:
    (tmp_path / "root/link").symlink_to(target)
    assert made(root_fd, "link/secrets") == str(tmp_path / "root/run/secrets")
    assert not (tmp_path / "run").exists()


def test_mkdir_dots_stop_at_the_root(tmp_path: Path, root_fd: int) -> None:
    assert made(root_fd, "../../x/../y") == str(tmp_path / "root/y")
    assert made(root_fd, "/") == str(tmp_path / "root")


def test_mkdir_with_a_file_or_a_loop_in_the_way(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "root/file").write_bytes(b"")
    (tmp_path / "root/loop").symlink_to("loop")
    for path, code in (("file/x", errno.ENOTDIR), ("loop/x", errno.ELOOP)):
        with pytest.raises(KernelError) as caught:
            paths.mkdir_in_root(root_fd, path)
        assert caught.value.errno == code


def test_mkdir_leaks_no_descriptor(root_fd: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made(root_fd, "a/b/c")
    assert len(os.listdir("/proc/self/fd")) == before
