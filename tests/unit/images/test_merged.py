import os
from pathlib import Path

import pytest

from shim.images.merged import MergedTree, tree_order


@pytest.fixture
def lowers(tmp_path: Path) -> list[str]:
    """Two layers, the topmost first."""
    top, base = tmp_path / "top", tmp_path / "base"
    (base / "usr/lib").mkdir(parents=True)
    (base / "usr/lib/f").write_bytes(b"base")
    (base / "usr/only").write_bytes(b"below")
    (base / "lib").symlink_to("usr/lib")
    (base / "hidden").mkdir()
    (base / "hidden/f").write_bytes(b"no")
    (top / "usr/lib").mkdir(parents=True)
    (top / "usr/lib/f").write_bytes(b"top")
    (top / "hidden").write_bytes(b"a file now")
    (top / "abs").symlink_to("/lib/f")
    (top / "up").symlink_to("../../../usr/only")
    (top / "loop").symlink_to("loop")
    (top / "gone").symlink_to("usr/new/dir")
    os.mkfifo(top / "fifo")
    return [str(top), str(base)]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (b"/usr/lib/f", b"top"),
        (b"lib/f", b"top"),
        (b"/lib/../only", b"below"),
        (b"abs", b"top"),
        (b"up", b"below"),
        (b"../../usr/only", b"below"),
        (b"hidden", b"a file now"),
        (b"hidden/f", None),
        (b"usr/only/x", None),
        (b"usr", None),
        (b"loop", None),
        (b"loop/x", None),
        (b"gone", None),
        (b"fifo", None),
        (b"n" * 300, None),
        (b"", None),
    ],
)
def test_files_are_read_as_overlayfs_would_show_them(
    lowers: list[str], path: bytes, content: bytes | None
) -> None:
    with MergedTree(lowers) as tree:
        assert tree.read(path, 100) == content


def test_a_file_that_is_too_long_counts_as_none(lowers: list[str]) -> None:
    with MergedTree(lowers) as tree:
        assert tree.read(b"usr/only", 4) is None
        assert tree.read(b"usr/only", 5) == b"below"


@pytest.mark.parametrize(
    ("path", "real"),
    [
        (b"lib", b"usr/lib"),
        (b"lib/new/x", b"usr/lib/new/x"),
        (b"gone/more", b"usr/new/dir/more"),
        (b"abs", b"usr/lib/f"),
        (b"/", b""),
        (b"..", b""),
        (b"loop", None),
    ],
)
def test_a_path_is_resolved_through_links_also_where_nothing_is_yet(
    lowers: list[str], path: bytes, real: bytes | None
) -> None:
    with MergedTree(lowers) as tree:
        assert tree.resolve(path) == real


def test_a_link_at_the_end_can_be_the_answer(lowers: list[str]) -> None:
    with MergedTree(lowers) as tree, tree.find(b"lib", follow=False) as fd:
        assert fd is not None
        assert os.readlink(b"", dir_fd=fd) == b"usr/lib"


def test_no_layers_are_an_empty_tree() -> None:
    with MergedTree([]) as tree:
        assert tree.read(b"etc/passwd", 10) is None
        assert tree.resolve(b"a/../b") == b"b"


def test_a_cursor_finds_what_overlayfs_would_show_and_follows_no_links(lowers: list[str]) -> None:
    paths = [
        b"usr",
        b"usr/lib",
        b"usr/lib/f",
        b"usr/only",
        b"usr/none/x",
        b"lib",
        b"lib/f",
        b"hidden/f",
        b"up",
    ]
    found: dict[bytes, set[int | None]] = {}
    with MergedTree(lowers) as tree, tree.cursor() as cursor:
        for path in (*paths, *reversed(paths)):
            fd = cursor.find(path)
            found.setdefault(path, set()).add(None if fd is None else os.fstat(fd).st_ino)
    top, base = map(Path, lowers)
    assert {
        path: {Path(place).lstat().st_ino}
        for path, place in (
            (b"usr", top / "usr"),
            (b"usr/lib", top / "usr/lib"),
            (b"usr/lib/f", top / "usr/lib/f"),
            (b"usr/only", base / "usr/only"),
            (b"lib", base / "lib"),
            (b"up", top / "up"),
        )
    } | {path: {None} for path in (b"usr/none/x", b"lib/f", b"hidden/f")} == found


def test_all_that_lies_in_a_directory_comes_right_after_it() -> None:
    assert tree_order([b"a-b", b"a/c", b"a", b"a/b/c", b"b"]) == [b"a", b"a/b/c", b"a/c", b"a-b", b"b"]
