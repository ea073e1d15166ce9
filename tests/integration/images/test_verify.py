"""Damage on disk is found whatever it is, its image is not listed, and is mended under running containers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shim.errors import NotFound
from shim.images.store import ImageStore
from shim.model import ids

pytestmark = [pytest.mark.root, pytest.mark.registry]

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


def layers(tools: Any) -> tuple[bytes, bytes]:
    """Return two layers with everything in them that layers can have."""
    xattrs = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"), "mtime": "1700000000.125"}
    first = tools.tar(
        (".", None),
        ("usr", {"type": tarfile.DIRTYPE, "mode": 0o751, "uid": 3}),
        ("usr/a", b"a" * 5000),
        ("usr/b", {"type": tarfile.LNKTYPE, "linkname": "usr/a"}),
        ("usr/ping", {"mode": 0o4755, "gid": 5, "data": b"ping", "pax_headers": xattrs}),
        ("lib", "usr"),
        ("gone", b"x"),
        ("dir", None),
        ("dir/old", b"x"),
        ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("pipe", {"type": tarfile.FIFOTYPE, "mode": 0o600}),
        ("twice", b"first"),
        ("twice", b"second, longer"),
        ("tree/below", b"1"),
        ("tree", b"a file in place of a directory"),
    )
    second = tools.tar(
        (".wh.gone", b""),
        ("dir", None),
        ("dir/.wh..wh..opq", b""),
        ("dir/sub/new", b"2"),
        (".wh.null", b""),
        ("null", None),
        ("lib/c", b"through a link of the layer below"),
        ("implied/deep/file", b"3"),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "lib/ping"}),
    )
    return first, second


@pytest.fixture
async def image(registry: Any, store: ImageStore, tools: Any) -> Any:
    return await store.pull(registry.push("verify/app", "v1", tools.image(*layers(tools))), None)


async def verify(store: ImageStore, *names: str, **how: Any) -> list[Any]:
    return [found async for found in store.verify(names, **how)]


async def test_what_is_whole_is_whole(store: ImageStore, image: Any) -> None:
    found = await verify(store)
    assert [(each.problems, each.images) for each in found] == [((), image.repo_tags)] * 2
    assert await verify(store, image.id) == found


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def remake(path: Path) -> None:
    path.unlink()
    path.mkdir()


# What is done to which layer's fs (0 is the lower), and what verification says of it.
DAMAGE: dict[str, tuple[int, Any, str]] = {
    "content": (0, lambda fs: write(fs / "usr/a", b"b" * 5000), "digest"),
    "cut short": (0, lambda fs: write(fs / "usr/a", b"a" * 4999), "shorter"),
    "longer": (0, lambda fs: grow(fs / "usr/ping"), "bytes instead"),
    "missing": (0, lambda fs: os.unlink(fs / "usr/a"), "cannot read|missing"),
    "mode": (0, lambda fs: os.chmod(fs / "usr/ping", 0o700), "mode"),
    "mode of a directory": (0, lambda fs: os.chmod(fs / "usr", 0o700), "mode"),
    "owner": (0, lambda fs: os.chown(fs / "usr", 0, 7), "owner"),
    "time": (0, lambda fs: os.utime(fs / "usr", (1, 1)), "time"),
    "capability": (0, lambda fs: os.removexattr(fs / "usr/ping", "security.capability"), "capabilities"),
    "link": (0, lambda fs: relink(fs / "lib", "etc"), "leads elsewhere|time|missing"),
    "hard link": (
        0,
        lambda fs: (os.unlink(fs / "usr/b"), shutil.copy2(fs / "usr/a", fs / "usr/b")),
        "no link",
    ),
    "type": (0, lambda fs: remake(fs / "pipe"), "another type"),
    "added": (0, lambda fs: write(fs / "usr/evil", b"x"), "no entry"),
    "whiteout": (1, lambda fs: os.unlink(fs / "gone"), "not deleted"),
    "opaque": (1, lambda fs: os.removexattr(fs / "dir", "trusted.overlay.opaque"), "does not hide"),
    "opaque too much": (1, lambda fs: os.setxattr(fs / "implied", "trusted.overlay.opaque", b"y"), "hides"),
    "a whole directory": (1, lambda fs: shutil.rmtree(fs / "implied"), "cannot read"),
    "record": (1, lambda fs: write(fs.parent / "tar.zst", b"nonsense"), "record"),
    "facts": (1, lambda fs: write(fs.parent / "layer.json", b"{"), "cannot be read"),
}


def timeless(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a tree without the times of directories that no archive describes: they are of their making."""
    made = ("implied", "implied/deep", "dir/sub", "tree")
    return {path: (*facts[:3], *facts[4:]) if path in made else facts for path, facts in tree.items()}


@pytest.mark.parametrize(("number", "damage", "why"), DAMAGE.values(), ids=DAMAGE.keys())
async def test_damage_is_found_and_mended_in_place(
    store: ImageStore, image: Any, tools: Any, tmp_path: Path, number: int, damage: Any, why: str
) -> None:
    container = ids.new_id()
    rootfs = store.snapshots.prepare(container, image)
    with tools.overlay(store.layers(image), tmp_path) as root:
        before = timeless(tools.tree(root))
    damage(Path(rootfs.lowers[1 - number]))
    found = await verify(store)
    assert [bool(each.problems) for each in found] == [number == 0, number == 1]
    assert tools.matches(why, " ".join(found[number].problems))
    assert found[number].containers == (container,)
    assert store.list() == []
    with pytest.raises(NotFound, match="damaged"):
        store.resolve(image.repo_tags[0])
    mended = await verify(store, image.id, repair=True)
    assert [each.mended for each in mended] == [number == 0, number == 1]
    assert store.list() == [image]
    assert [each.problems for each in await verify(store)] == [(), ()]
    assert store.snapshots.rootfs(container) == rootfs
    with tools.overlay(store.layers(image), tmp_path) as root:
        assert timeless(tools.tree(root)) == before
    assert os.listdir(tmp_path / "images/ingest") == os.listdir(tmp_path / "images/trash") == []


async def test_a_container_goes_on_while_its_layer_is_mended(
    store: ImageStore, image: Any, tools: Any, tmp_path: Path
) -> None:
    lower = Path(store.layers(image)[1])
    with tools.overlay(store.layers(image), tmp_path) as root, (root / "usr/ping").open("rb") as running:
        write(lower / "usr/a", b"b" * 5000)
        shutil.rmtree(lower / "dir")
        (found, _) = await verify(store, repair=True)
        assert found.mended
        assert running.read() == b"ping"
        assert (root / "implied/deep/file").read_bytes() == b"3"
        assert len((root / "usr/a").read_bytes()) == 5000


async def test_pulling_and_loading_again_mend(
    registry: Any, open_store: Any, tools: Any, tmp_path: Path
) -> None:
    name = registry.push("verify/again", "v1", tools.image(*layers(tools)))
    async with open_store(tmp_path / "images") as store:
        image = await store.pull(name, None)
        await store.save([name], str(tmp_path / "saved.tar"))
        for mend in (lambda: store.pull(name, None), lambda: store.load(str(tmp_path / "saved.tar"))):
            write(Path(store.layers(image)[0]) / "implied/deep/file", b"4")
            await verify(store)
            assert store.list() == []
            await mend()
            assert [each.id for each in store.list()] == [image.id]
            assert store.read_file(image, "/implied/deep/file") == b"3"
        write(Path(store.layers(image)[0]) / "implied/deep/file", b"4")
        await verify(store)
    async with open_store(tmp_path / "images") as store:
        assert store.list() == []  # a restart does not forget it
        await store.remove(image.id)
        assert tools.leftovers(tmp_path / "images") == []


async def test_what_cannot_be_mended_says_why(registry: Any, store: ImageStore, tools: Any) -> None:
    name = registry.push("verify/lost", "v1", tools.image(tools.tar(("f", b"whole"))))
    image = await store.pull(name, None)
    write(Path(store.layers(image)[0]) / "f", b"other")
    registry.blob_file(registry.layers_of("verify/lost", "v1")[0]).unlink()
    (found,) = await verify(store, repair=True)
    assert (found.mended, found.images) == (False, (name,))
    assert "not found" in found.reason
    with pytest.raises(NotFound):
        await verify(store, "never/was:here")


async def test_after_an_unclean_stop_doubtful_layers_are_checked(
    registry: Any, store: ImageStore, open_store: Any, tools: Any, tmp_path: Path
) -> None:
    name = registry.push("verify/power", "v1", tools.image(tools.tar(("f", b"whole"))))
    image = await store.pull(name, None)
    shutil.copytree(tmp_path / "images", tmp_path / "copy", symlinks=True)  # as a power cut would leave it
    mark = tmp_path / "copy/running"
    write(Path(store.layers(image)[0].replace("/images/", "/copy/")) / "f", b"ruin!")
    async with open_store(tmp_path / "copy") as other:  # only the daemon was killed: nothing is lost
        assert [each.id for each in other.list()] == [image.id]
    assert not mark.exists()
    shutil.copy(tmp_path / "images/running", mark)
    write(mark, json.dumps({**json.loads(mark.read_bytes()), "boot_id": "another"}).encode())
    async with open_store(tmp_path / "copy") as other:
        for _ in range(500):
            if not other.list():
                break
            await asyncio.sleep(0.01)
        assert other.list() == []
        assert (await other.pull(name, None)).id == image.id
        assert other.read_file(image, "/f") == b"whole"
