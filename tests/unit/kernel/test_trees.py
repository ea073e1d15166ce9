import os
from pathlib import Path

import pytest

from shim.errors import KernelError
from shim.kernel import trees


def test_a_tree_goes_with_all_below_it_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/file").touch()
    (tree / "link").symlink_to(outside)
    os.mkfifo(tree / "a/b/fifo")
    (tree / "a").chmod(0)
    trees.remove_tree(str(tree))
    trees.remove_tree(str(tree))
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert os.listdir(outside) == ["file"]


def test_nesting_has_no_limit(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 50, dir_fd=fd)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    trees.remove_tree(str(top))
    assert not top.exists()


def test_a_file_or_link_in_its_place_goes_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trees.remove_tree(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    with pytest.raises(KernelError):
        trees.remove_tree("/proc/self/task")
