"""Images in files: what is saved can be loaded, by us and by others; what is hostile is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from shim.images.store import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.registry]

PACKERS = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def archive(members: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            info, data = tarfile.TarInfo(name), b""
            if isinstance(content, bytes):
                data = content
            else:
                for key, value in content.items():
                    setattr(info, key, value)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def layout(built: Any, name: str = "registry.example/team/app:v1") -> dict[str, Any]:
    """Return the files of an OCI layout."""
    entry = {
        "mediaType": built.media_type,
        "digest": built.digest,
        "size": len(built.manifest),
        "annotations": {"io.containerd.image.name": name} if name else {},
    }
    blobs = {**built.blobs, built.digest: built.manifest}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **{f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()},
    }


def docker_archive(
    built: Any, layers: tuple[bytes, ...], tags: tuple[str, ...] = ("app:v1",)
) -> dict[str, Any]:
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    config = f"{built.id[7:]}.json"
    entry = {"Config": config, "RepoTags": list(tags), "Layers": names}
    return {
        config: built.blobs[built.id],
        **dict(zip(names, layers, strict=True)),
        "manifest.json": json.dumps([entry]).encode(),
    }


def spread(members: dict[str, Any], directory: Path) -> Path:
    for name, content in members.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def unpack(path: Path, directory: Path) -> Path:
    with tarfile.open(path) as tar:
        if hasattr(tarfile, "data_filter"):  # not in the first releases of 3.11
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(directory)  # noqa: S202 - what we saved ourselves
    return directory


def keep(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.fixture
def layers(tools: Any) -> tuple[bytes, ...]:
    first = tools.tar(("d", None), ("d/f", os.urandom(70_000)), ("link", "d/f"))
    second = tools.tar(
        (".wh.link", b""),
        ("d/g", {"data": b"old"}),
        ("d/h", {"type": tarfile.LNKTYPE, "linkname": "d/f"}),
        ("d/g", {"data": b"twice: the later counts", "mode": 0o4711}),
        ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
    )
    return first, second


@pytest.fixture
def built(tools: Any, layers: tuple[bytes, ...]) -> Any:
    return tools.image(*layers)


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", ["oci", "docker"])
async def test_archives_can_be_loaded(
    store: ImageStore, layers: Any, built: Any, tmp_path: Path, packing: str, kind: str
) -> None:
    members = layout(built) if kind == "oci" else docker_archive(built, layers)
    heard: list[str] = []
    (image,) = await store.load(
        keep(tmp_path / "archive", PACKERS[packing](archive(members))),
        progress=lambda item, phase, done, total: heard.append(phase),
    )
    assert image.id == built.id
    name = "registry.example/team/app:v1" if kind == "oci" else "docker.io/library/app:v1"
    assert image.repo_tags == (name,)
    assert store.resolve(name) == image
    assert store.read_file(image, "/d/g") == b"twice: the later counts"
    assert store.read_file(image, "/link") is None
    assert heard.count("done") == 2
    assert os.listdir(tmp_path / "images/ingest") == []


async def test_a_directory_can_be_loaded(store: ImageStore, built: Any, tmp_path: Path) -> None:
    (image,) = await store.load(str(spread(layout(built), tmp_path / "layout")))
    assert image.id == built.id


async def test_an_image_without_a_name_gets_the_given_one(
    store: ImageStore, built: Any, tmp_path: Path
) -> None:
    path = keep(tmp_path / "archive", archive(layout(built, name="")))
    (image,) = await store.load(path)
    assert image.repo_tags == ()
    (image,) = await store.load(path, "app:v2", pinned=True)
    assert (image.repo_tags, image.pinned) == (("docker.io/library/app:v2",), True)


async def test_what_is_saved_can_be_loaded(
    store: ImageStore, open_store: Any, built: Any, tools: Any, tmp_path: Path
) -> None:
    other = tools.image(tools.tar(("only", b"1")))
    for image, name in ((built, "registry.example/team/app:v1"), (other, "other:v9")):
        await store.load(keep(tmp_path / "in", archive(layout(image, name))))
    await store.save(["registry.example/team/app:v1", other.id], str(tmp_path / "saved.tar"))
    for source in (tmp_path / "saved.tar", unpack(tmp_path / "saved.tar", tmp_path / "unpacked")):
        async with open_store(tmp_path / f"again-{source.name}") as again:
            loaded = {image.id: image for image in await again.load(str(source))}
            assert loaded.keys() == {built.id, other.id}
            assert loaded[built.id].repo_tags == ("registry.example/team/app:v1",)
            assert loaded[other.id].repo_tags == ("docker.io/library/other:v9",)
            assert again.read_file(loaded[built.id], "/d/g") == b"twice: the later counts"
            # Its layers are the same bytes: it can be saved once more, and the digests are checked then.
            await again.save([built.id], str(tmp_path / "twice.tar"))
    with pytest.raises(NotFound):
        await store.save(["never/was:here"], str(tmp_path / "none.tar"))


async def test_damage_on_disk_is_found_when_saving(store: ImageStore, built: Any, tmp_path: Path) -> None:
    (image,) = await store.load(keep(tmp_path / "in", archive(layout(built))))
    keep(Path(store.layers(image)[-1]) / "d/f", b"x" * 70_000)
    with pytest.raises(FailedPrecondition, match="damaged"):
        await store.save([image.id], str(tmp_path / "saved.tar"))


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
async def test_skopeo_reads_what_we_save_and_we_read_what_it_writes(
    store: ImageStore, open_store: Any, built: Any, tmp_path: Path, transport: str
) -> None:
    (image,) = await store.load(keep(tmp_path / "in", archive(layout(built))))
    await store.save([image.id], str(tmp_path / "saved.tar"))
    for source in ("oci-archive", "docker-archive"):
        target = tmp_path / f"{source}-to-{transport}"
        copy(f"{source}:{tmp_path / 'saved.tar'}", f"{transport}:{target}:example.org/app:v3")
        async with open_store(tmp_path / f"again-{source}") as again:
            (loaded,) = await again.load(str(target))
            assert loaded.diff_ids == image.diff_ids
            assert again.read_file(loaded, "/d/g") == b"twice: the later counts"
            assert loaded.repo_tags == ("example.org/app:v3",)


def copy(source: str, target: str) -> None:
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", source, target], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


SYMLINK = tarfile.SYMTYPE
HOSTILE: dict[str, Any] = {
    "nothing": {},
    "no index": {"file": b"x"},
    "index is no JSON": {"index.json": b"{"},
    "index nested too deep": {"index.json": b"[" * 200_000},
    "index is a list": {"index.json": b"[]"},
    "manifest.json is text": {"manifest.json": b'["x"]'},
    "a key comes twice": {"manifest.json": b'[{"Config": "a", "Config": "b", "Layers": []}]'},
    "a key of the index comes twice": {"index.json": b'{"manifests": [], "manifests": []}'},
    "config is giant": {
        "manifest.json": b'[{"Config": "c", "Layers": []}]',
        "c": b"{" + b" " * (9 << 20) + b"}",
    },
    "config leaves": {"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'},
    "config is absolute": {"manifest.json": b'[{"Config": "/etc/passwd", "Layers": []}]'},
    "config is a link out": {
        "manifest.json": b'[{"Config": "c", "Layers": []}]',
        "c": {"type": SYMLINK, "linkname": "/etc/passwd"},
    },
    "links in circles": {
        "manifest.json": b'[{"Config": "c", "Layers": []}]',
        "c": {"type": SYMLINK, "linkname": "d"},
        "d": {"type": SYMLINK, "linkname": "c"},
    },
    "index is a device": {"index.json": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}},
    "digest is a path": {
        "index.json": b'{"manifests": [{"digest": "sha256:../../../etc/passwd", "size": 3}]}',
    },
    "size is negative": {
        "index.json": json.dumps({"manifests": [{"digest": f"sha256:{'0' * 64}", "size": -3}]}).encode(),
    },
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_archives_are_refused(
    store: ImageStore, tools: Any, tmp_path: Path, members: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument):
        await store.load(keep(tmp_path / "archive", archive(members)))
    assert tools.leftovers(tmp_path / "images") == []


@pytest.mark.parametrize("trick", ["link", "fifo", "device"])
async def test_a_directory_cannot_lead_out_of_itself(
    store: ImageStore, built: Any, tools: Any, tmp_path: Path, trick: str
) -> None:
    directory = spread(layout(built), tmp_path / "layout")
    blob = directory / "blobs" / built.layers[0].replace(":", "/")
    shutil.move(blob, tmp_path / "outside")
    if trick == "link":
        blob.symlink_to(tmp_path / "outside")
    elif trick == "fifo":
        os.mkfifo(blob)
    else:
        os.mknod(blob, 0o20644, os.makedev(1, 5))
    with pytest.raises(InvalidArgument):
        await store.load(str(directory))
    assert tools.leftovers(tmp_path / "images") == []


async def test_lies_about_content_are_found(
    store: ImageStore, layers: Any, built: Any, tools: Any, tmp_path: Path
) -> None:
    first = built.layers[0]
    longer = {**layout(built), f"blobs/sha256/{first[7:]}": built.blobs[first] + b"more"}
    shorter = {**layout(built), f"blobs/sha256/{first[7:]}": built.blobs[first][:100]}
    flipped = {**layout(built), f"blobs/sha256/{first[7:]}": bytes(len(built.blobs[first]))}
    swapped = docker_archive(built, tuple(reversed(layers)))
    for members in (longer, shorter, flipped, swapped):
        with pytest.raises((FailedPrecondition, InvalidArgument)):
            await store.load(keep(tmp_path / "archive", archive(members)))
        assert tools.leftovers(tmp_path / "images") == []
    whole = archive(layout(built))
    for data in (whole[: len(whole) // 2], gzip.compress(whole)[:-2000], b"", os.urandom(5000)):
        with pytest.raises(InvalidArgument):
            await store.load(keep(tmp_path / "archive", data))
        assert tools.leftovers(tmp_path / "images") == []


async def test_hostile_layers_of_an_archive_are_refused(
    store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    for entries in ([("../up", b"x")], [("a", "/"), ("a/../../b", b"x")]):
        layer = tools.tar(*entries)
        built = tools.image(tools.tar(("fine", b"1")), layer)
        with pytest.raises(InvalidArgument, match="would leave the layer"):
            await store.load(keep(tmp_path / "archive", archive(layout(built))))
        assert tools.leftovers(tmp_path / "images") == []


async def test_a_compressed_bomb_stops_at_the_limit(open_store: Any, tools: Any, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(64 << 20), 1)
    async with open_store(tmp_path / "images", max_layer_bytes=10 << 20) as store:
        with pytest.raises(ResourceExhausted, match="larger"):
            await store.load(keep(tmp_path / "bomb", bomb))
        assert tools.leftovers(tmp_path / "images") == []


async def test_a_full_disk_stops_saving(store: ImageStore, built: Any, tmp_path: Path) -> None:
    (image,) = await store.load(keep(tmp_path / "in", archive(layout(built))))
    with pytest.raises(ResourceExhausted, match="no space left"):
        await store.save([image.id], "/dev/full")


async def test_a_missing_archive_is_not_found(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await store.load(str(tmp_path / "nothing.tar"))
