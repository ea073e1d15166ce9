import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument, NotFound
from shim.images import archive, bundle, platforms
from shim.images.archive import Packed

LIMIT = 1 << 20


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(**changes: Any) -> bytes:
    here = platforms.host()
    return json.dumps(
        {
            "os": here.os,
            "architecture": here.architecture,
            "rootfs": {"diff_ids": [digest(b"layer")]},
            **changes,
        }
    ).encode()


def layout(config_data: bytes, annotations: dict[str, str]) -> dict[str, bytes]:
    parts = {
        "schemaVersion": 2,
        "config": {"digest": digest(config_data), "size": len(config_data)},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(b"layer"), "size": 5}
        ],
    }
    manifest = json.dumps(parts).encode()
    entry = {"digest": digest(manifest), "size": len(manifest), "annotations": annotations}
    files = {f"blobs/{digest(data).replace(':', '/')}": data for data in (config_data, manifest, b"layer")}
    return {"index.json": json.dumps({"manifests": [entry]}).encode(), **files}


def docker(config_data: bytes, tags: list[str] | None, **files: bytes) -> dict[str, bytes]:
    entry = {"Config": "config.json", "RepoTags": tags, "Layers": ["layer.tar"]}
    return {
        "config.json": config_data,
        "layer.tar": b"layer",
        "manifest.json": json.dumps([entry]).encode(),
        **files,
    }


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            writer.addfile(info)
    return out.getvalue()


def read(directory: Path, data: bytes) -> list[Packed]:
    path = directory / "archive"
    path.write_bytes(data)
    opened = bundle.open_bundle(str(path), str(directory), LIMIT)
    try:
        return archive.read_images(opened)
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({}, ()),
        ({"org.opencontainers.image.ref.name": "v1"}, ()),  # a tag without a name is none
        ({"org.opencontainers.image.ref.name": "team/app:v1"}, ("docker.io/team/app:v1",)),
        ({"io.containerd.image.name": "app"}, ("docker.io/library/app:latest",)),
        (
            {"io.containerd.image.name": "host.example/app:v2", "org.opencontainers.image.ref.name": "x/y:z"},
            ("host.example/app:v2",),
        ),
    ],
)
def test_a_layout_names_its_images(
    tmp_path: Path, annotations: dict[str, str], names: tuple[str, ...]
) -> None:
    (image,) = read(tmp_path, tar(layout(config(), annotations)))
    assert image.found.id == digest(config())
    assert image.names == names
    ((name, wanted),) = image.layers
    assert name == f"blobs/{digest(b'layer').replace(':', '/')}"
    assert (wanted.size, wanted.diff_id) == (5, digest(b"layer"))


def test_a_docker_archive_names_its_images(tmp_path: Path) -> None:
    (image,) = read(tmp_path, tar(docker(config(), ["app:v1", "other.example/app"])))
    assert image.found.id == digest(config())
    assert image.names == ("docker.io/library/app:v1", "other.example/app:latest")
    (image,) = read(tmp_path, tar(docker(config(), None)))
    assert image.names == ()


def test_links_of_an_old_docker_archive_are_followed_inside_it(tmp_path: Path) -> None:
    files = docker(config(), ["app"])
    files["real/layer"] = files.pop("layer.tar")
    (image,) = read(tmp_path, tar(files, {"layer.tar": "real/layer"}))
    assert image.layers[0][1].size == 5


def test_an_archive_that_is_both_counts_once_with_the_names_of_both(tmp_path: Path) -> None:
    files = layout(config(), {"io.containerd.image.name": "docker.io/library/a:1"})
    entry = {"Config": f"blobs/{digest(config()).replace(':', '/')}", "RepoTags": ["b:2"], "Layers": []}
    files["manifest.json"] = json.dumps([entry]).encode()
    (image,) = read(tmp_path, tar(files))
    assert image.names == ("docker.io/library/a:1", "docker.io/library/b:2")


def test_a_layout_for_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no image for linux/"):
        read(tmp_path, tar(layout(config(architecture="s390x"), {})))


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": b"[]"},
        {"manifest.json": b'[{"Config": 5}]'},
        {"manifest.json": b'[{"Config": "a", "Layers": "b"}]'},
        {"manifest.json": b'[{"Config": "missing", "Layers": []}]'},
        docker(config(rootfs={"diff_ids": []}), []),
        docker(config(), ["Not:a:name"]),
        docker(b"{", []),
    ],
)
def test_malformed_archives_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidArgument):
        read(tmp_path, tar(files))


def test_a_bundle_finds_files_by_clean_names_only(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(tar({"./a": b"1", "/abs/b": b"2", "../c": b"3"}, {"out": "/etc/passwd", "loop": "loop"}))
    opened = bundle.open_bundle(str(path), str(tmp_path), LIMIT)
    assert [opened.read(name, 10) for name in ("a", "abs/b", "c", "/../a")] == [b"1", b"2", b"3", b"1"]
    assert not any(opened.has(name) for name in ("out", "loop", "etc/passwd"))
    with pytest.raises(InvalidArgument, match="more than 0"):
        opened.read("a", 0)
    opened.close()


def test_a_directory_is_a_bundle_whose_links_must_stay_inside(tmp_path: Path) -> None:
    top = tmp_path / "layout"
    (top / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"host")
    (top / "sub/file").write_bytes(b"data")
    (top / "in").symlink_to("sub/file")
    (top / "out").symlink_to("../secret")
    opened = bundle.open_bundle(str(top), str(tmp_path), LIMIT)
    assert opened.read("in", 10) == b"data"
    assert not opened.has("out")
    for name in ("out", "../secret", "sub"):
        with pytest.raises(InvalidArgument):
            opened.read(name, 10)
    opened.close()


def test_a_missing_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        bundle.open_bundle(str(tmp_path / "none"), str(tmp_path), LIMIT)
