"""Layers unpacked from a registry are what overlayfs shows of the archives, and nothing reaches the host."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument, ResourceExhausted
from shim.images.store import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture
def pulled(registry: Any, store: ImageStore, tools: Any, request: Any) -> Any:
    async def pull(*layers: bytes, **how: Any) -> Any:
        name = f"layers/{tools.digest(request.node.name.encode())[7:27]}"
        return await store.pull(registry.push(name, "v1", tools.image(*layers, **how)), None)

    return pull


async def test_whiteouts_and_opaque_directories_hide_what_is_below(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    base = tools.tar(
        ("gone", b"1"),
        ("d", None),
        ("d/old", b"1"),
        ("e", None),
        ("e/old", b"1"),
        ("f", None),
        ("f/old", b"1"),
    )
    top = tools.tar(
        (".wh.gone", b""),
        ("d", None),
        ("d/new", b"2"),
        ("d/.wh..wh..opq", b""),  # may come after what it lets stay
        (".wh.e", b""),
        ("e", None),
        ("e/new", b"2"),
        (".wh.f", b""),
        ("f/new", b"2"),
    )
    image = await pulled(base, top)
    with tools.overlay(store.layers(image), tmp_path) as root:
        assert sorted(os.listdir(root / "d")) == sorted(os.listdir(root / "e")) == ["new"]
        assert os.listdir(root / "f") == ["new"]
        assert not (root / "gone").exists()
    assert store.read_file(image, "/d/old") is None
    assert store.read_file(image, "/d/new") == b"2"
    assert store.read_file(image, "gone") is None


async def test_opaque_root_hides_all_layers_below(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    image = await pulled(
        tools.tar(("old", b"1")), tools.tar((".", None), (".wh..wh..opq", b""), ("new", b"2"))
    )
    with tools.overlay(store.layers(image), tmp_path) as root:
        assert os.listdir(root) == ["new"]
    assert store.read_file(image, "/old") is None


async def test_what_files_have_is_kept(pulled: Any, store: ImageStore, tools: Any, tmp_path: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    xattrs = {
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.security.selinux": "system_u:object_r:etc_t:s0",
        "mtime": "1700000000.123456789",
    }
    image = await pulled(
        tools.tar(
            ("tmp", {"type": tarfile.DIRTYPE, "mode": 0o1777}),
            ("bin", {"type": tarfile.DIRTYPE, "mode": 0o2755, "gid": 12}),
            ("bin/ping", {"mode": 0o4755, "uid": 7, "gid": 8, "data": b"ping", "pax_headers": xattrs}),
            ("bin/same", {"type": tarfile.LNKTYPE, "linkname": "bin/ping"}),
            ("bin/link", "/etc/shadow"),
            ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}),
            ("pipe", {"type": tarfile.FIFOTYPE, "mode": 0o600, "uid": 5}),
        )
    )
    with tools.overlay(store.layers(image), tmp_path) as root:
        ping = (root / "bin/ping").stat()
        assert (stat.S_IMODE(ping.st_mode), ping.st_uid, ping.st_gid) == (0o4755, 7, 8)
        assert ping.st_mtime_ns == 1_700_000_000_123_456_789
        assert os.getxattr(root / "bin/ping", "security.capability") == capability
        assert (root / "bin/same").stat().st_ino == ping.st_ino
        assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
        assert stat.S_IMODE((root / "bin").stat().st_mode) == 0o2755
        assert os.readlink(root / "bin/link") == "/etc/shadow"
        assert (root / "null").stat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    kept = os.listxattr(f"{store.layers(image)[0]}/bin/ping")
    assert not {"trusted.overlay.opaque", "security.selinux"} & set(kept)
    assert store.read_file(image, "/bin/link") is None
    assert store.read_file(image, "/null") is None


@pytest.mark.parametrize("described", [False, True], ids=["link in a lower layer", "link in the same layer"])
async def test_entries_below_a_link_land_where_it_leads(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path, described: bool
) -> None:
    usr = {"type": tarfile.DIRTYPE, "mode": 0o751, "uid": 3}
    links = (("lib", "usr/lib"), ("lib64", "/lib"))
    base = tools.tar(("usr", usr), ("usr/lib", usr), ("usr/lib/a", b"a"), *(() if described else links))
    top = tools.tar(
        *(links if described else ()),
        ("lib/b", b"b"),
        ("lib64/deep/c", b"c"),
        ("lib/.wh.a", b""),
        ("lib/d", {"type": tarfile.LNKTYPE, "linkname": "lib64/b"}),
    )
    image = await pulled(base, top)
    with tools.overlay(store.layers(image), tmp_path) as root:
        assert os.readlink(root / "lib") == "usr/lib"
        assert os.readlink(root / "lib64") == "/lib"
        assert sorted(os.listdir(root / "usr/lib")) == ["b", "d", "deep"]
        assert (root / "usr/lib/deep/c").read_bytes() == b"c"
        assert (root / "usr/lib/d").stat().st_ino == (root / "usr/lib/b").stat().st_ino
        for name in ("usr", "usr/lib"):
            info = (root / name).stat()
            assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o751, 3)
    assert store.read_file(image, "/lib64/deep/c") == b"c"
    await store.save([image.id], str(tmp_path / "saved.tar"))  # the stream can still be assembled


async def test_links_of_lower_layers_that_lead_on_are_followed(
    pulled: Any, store: ImageStore, tools: Any
) -> None:
    first = tools.tar(("real", None), ("a", "b"), ("real/x", "../y"), ("y", None))
    second = tools.tar(("b", "real"))
    image = await pulled(first, second, tools.tar(("a/x/file", b"found")))
    assert store.read_file(image, "/y/file") == b"found"
    assert store.read_file(image, "/a/x/file") == b"found"


async def test_a_hard_link_may_lead_to_a_file_of_a_lower_layer(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    base = tools.tar(("usr", None), ("usr/f", {"data": b"data", "mode": 0o640, "uid": 9}), ("s", "usr"))
    image = await pulled(base, tools.tar(("g", {"type": tarfile.LNKTYPE, "linkname": "s/f"})))
    with tools.overlay(store.layers(image), tmp_path) as root:
        info = (root / "g").stat()
        assert (root / "g").read_bytes() == b"data"
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_nlink) == (0o640, 9, 2)
        assert (root / "usr/f").stat().st_ino == info.st_ino
        assert os.readlink(root / "s") == "usr"


async def test_implied_directories_are_like_those_below(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    private = {"type": tarfile.DIRTYPE, "mode": 0o700, "uid": 4}
    image = await pulled(
        tools.tar(("home", None), ("home/me", private)),
        tools.tar(("home/me/file", b"1"), ("other/file", b"2")),
    )
    with tools.overlay(store.layers(image), tmp_path) as root:
        me = (root / "home/me").stat()
        assert (stat.S_IMODE(me.st_mode), me.st_uid, me.st_mtime) == (0o700, 4, 1_700_000_000)
        assert stat.S_IMODE((root / "other").stat().st_mode) == 0o755


async def test_links_never_lead_out_of_the_layer(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("host")
    image = await pulled(
        tools.tar(
            ("abs", str(outside)),
            ("abs/in", b"1"),
            ("up", "../../../../../.." + str(outside)),
            ("up/in2", b"2"),
            ("passwd", str(outside / "secret")),
            ("loop", "loop"),
        )
    )
    assert os.listdir(outside) == ["secret"]
    assert store.read_file(image, f"{outside}/in") == b"1"
    assert store.read_file(image, f"{outside}/in2") == b"2"
    assert store.read_file(image, "/passwd") is None
    assert store.read_file(image, "/loop") is None
    assert store.read_file(image, "/../../passwd/x") is None


HOSTILE = {
    "dot-dot": [("../../evil", b"x")],
    "dot-dot inside": [("a/../../evil", b"x")],
    "hard link out": [("a", {"type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"})],
    "hard link to nothing": [("a", {"type": tarfile.LNKTYPE, "linkname": "etc/passwd"})],
    "hard link to itself": [("a", {"type": tarfile.LNKTYPE, "linkname": "a"})],
    "below a file": [("a", b"x"), ("a/b", b"y")],
    "below a loop": [("a", "a"), ("a/b", b"y")],
    "long name": [("n" * 300, b"x")],
    "root is a file": [(".", b"x")],
    "whiteout of dot-dot": [("d/.wh...", b"")],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_entries_are_refused(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path, entries: list[Any]
) -> None:
    with pytest.raises(InvalidArgument, match="malformed layer"):
        await pulled(tools.tar(("fine", b"0")), tools.tar(*entries))
    assert tools.leftovers(tmp_path / "images") == []


DEEP = "d/" * 600 + "end"
MORE_HOSTILE: dict[str, list[Any]] = {
    "NUL in a link": [("a", {"type": tarfile.SYMTYPE, "pax_headers": {"linkpath": "b\0c"}})],
    "NUL in a hard link": [("a", {"type": tarfile.LNKTYPE, "pax_headers": {"linkpath": "b\0c"}})],
    "NUL in a path": [("a", {"data": b"x", "pax_headers": {"path": "b\0c"}})],
    "device of no kernel": [("a", {"type": tarfile.BLKTYPE, "devmajor": 1 << 12, "devminor": 1})],
    "owner beyond all": [("a", {"uid": (1 << 32) - 1})],
    "attribute too long": [("a", {"data": b"x", "pax_headers": {"SCHILY.xattr.user.x": "x" * 70_000}})],
    "size beyond all": [("a", {"data": b"x", "pax_headers": {"size": str(1 << 63)}})],
    "size below zero": [("a", {"data": b"x", "pax_headers": {"size": "-5"}})],
    "map of a sparse file that lies": [
        ("a", {"data": b"x", "pax_headers": {"GNU.sparse.map": "5,9", "GNU.sparse.size": "3"}})
    ],
}


@pytest.mark.parametrize("entries", MORE_HOSTILE.values(), ids=MORE_HOSTILE.keys())
async def test_what_no_kernel_would_take_is_refused(
    pulled: Any, tools: Any, tmp_path: Path, entries: list[Any]
) -> None:
    with pytest.raises((InvalidArgument, ResourceExhausted)):
        await pulled(tools.tar(*entries))
    assert tools.leftovers(tmp_path / "images") == []


async def test_deep_nesting_is_unpacked_and_removed(
    pulled: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    image = await pulled(tools.tar((DEEP, b"1")), tools.tar((DEEP, b"2"), ("e/" * 600 + "f", b"3")))
    assert store.read_file(image, DEEP) == b"2"
    assert [found.problems async for found in store.verify([])] == [(), ()]
    await store.remove(image.id)
    assert tools.leftovers(tmp_path / "images") == []


async def test_an_image_of_many_layers(pulled: Any, store: ImageStore, tools: Any, tmp_path: Path) -> None:
    layers = [tools.tar((f"f{number}", b"x"), ("same", str(number).encode())) for number in range(120)]
    image = await pulled(*layers)
    assert store.read_file(image, "/same") == b"119"
    assert len(store.layers(image)) == 120


def lying_sizes(tools: Any) -> dict[str, bytes]:
    whole = tools.tar(("file", b"x" * 10_000))
    damaged = bytearray(whole)
    damaged[148:156] = b"0000000\0"
    return {"ends early": whole[:5000], "checksum": bytes(damaged), "no tar": b"hello" * 1000}


@pytest.mark.parametrize("what", ["ends early", "checksum", "no tar"])
async def test_streams_that_are_no_archives_are_refused(
    pulled: Any, tools: Any, tmp_path: Path, what: str
) -> None:
    with pytest.raises(InvalidArgument, match="malformed layer"):
        await pulled(lying_sizes(tools)[what])
    assert tools.leftovers(tmp_path / "images") == []


async def test_bombs_stop_at_the_limits(registry: Any, open_store: Any, tools: Any, tmp_path: Path) -> None:
    devices = [(f"dev{n}", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": n % 200}) for n in range(500)]
    bombs = {
        "devices": tools.tar(*devices),
        "zeros": tools.tar(("zeros", bytes(20 << 20))),
        "tail": tools.tar(("f", b"1")) + bytes(20 << 20),
        "implied directories": tools.tar(*((f"{n}/" * 50 + "f", b"x") for n in range(20))),
        "sparse": tools.tar(
            ("hole", {"pax_headers": {"GNU.sparse.map": "", "GNU.sparse.size": str(1 << 50)}})
        ),
    }
    async with open_store(tmp_path / "images", max_entries=400, max_layer_bytes=10 << 20) as store:
        for name, layer in bombs.items():
            with pytest.raises(ResourceExhausted, match="more entries or bytes"):
                await store.pull(
                    registry.push(f"bomb/{name.replace(' ', '-')}", "v1", tools.image(layer)), None
                )
        assert tools.leftovers(tmp_path / "images") == []
