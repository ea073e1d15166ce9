"""Mount points below a root that somebody hostile may have filled."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import KernelError
from shim.runtime.rooted import target_in_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def target(root_fd: int, path: str) -> str:
    before = len(os.listdir("/proc/self/fd"))
    fd = target_in_root(root_fd, path, False)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_made_where_none_is_with_its_parents(root: Path, root_fd: int) -> None:
    for _ in range(2):
        assert target(root_fd, "/a/b") == str(root / "a/b")
    assert (root / "a/b").read_bytes() == b""


@pytest.mark.parametrize(
    "link",
    [
        "../run/systemd/resolve/stub",
        "/run/systemd/resolve/stub",
        "../../../../run/systemd/resolve/stub",
        "other",
    ],
)
def test_a_link_that_leads_nowhere_yet_is_followed_inside(root: Path, root_fd: int, link: str) -> None:
    (root / "etc/resolv.conf").symlink_to(link)
    (root / "etc/other").symlink_to("/run/systemd/resolve/stub")
    assert target(root_fd, "/etc/resolv.conf") == str(root / "run/systemd/resolve/stub")
    assert not (root.parent / "run").exists()


def test_links_on_the_way_are_the_roots_own(root: Path, root_fd: int, tmp_path: Path) -> None:
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    (root / "run").mkdir()
    (root / "run/hosts").symlink_to("../etc/hosts")
    assert target(root_fd, "/var/run/hosts") == str(root / "etc/hosts")
    (root / "etc/up").symlink_to(str(tmp_path / "outside"))
    assert target(root_fd, "/etc/up") == f"{root}{tmp_path}/outside"
    assert not (tmp_path / "outside").exists()


def test_links_in_a_circle_are_an_error(root: Path, root_fd: int) -> None:
    (root / "etc/a").symlink_to("b")
    (root / "etc/b").symlink_to("a")
    with pytest.raises(KernelError) as caught:
        target(root_fd, "/etc/a")
    assert caught.value.errno == errno.ELOOP
