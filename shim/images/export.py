"""Images into a tar file that is an OCI layout and a docker archive at once. Blocking.

Layers are written plain: their tar streams are assembled again from the unpacked files (``unpack.record``),
so their digests are the diff ids, and image ids stay the same wherever the file is loaded.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

from shim.errors import FailedPrecondition
from shim.images import assembly, digest, manifest
from shim.images.archive import CONTAINERD_NAME, OCI_NAME
from shim.images.blobs import BlobStore
from shim.images.layers import Layer, LayerStore
from shim.model.image import Image

_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'


def save(path: str, chosen: Sequence[tuple[str, Image]], layers: LayerStore, blobs: BlobStore) -> None:
    """Write images to ``path``.

    Args:
        path: the file; what it had is replaced.
        chosen: (name that was asked for, image); one asked for by id is saved with all its tags.
        layers: where they lie.
        blobs: where configurations lie.

    Raises:
        FailedPrecondition: a layer on disk is not what its diff id says.
    """
    index: list[dict[str, Any]] = []
    docker: dict[str, dict[str, Any]] = {}
    written: set[str] = set()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        _add(out, "oci-layout", _LAYOUT)
        for asked, image in chosen:
            described = _add_image(out, image, layers, blobs, written)
            names = [asked] if asked in image.repo_tags else _normal_tags(asked, image)
            index += [_named(described, name) for name in names] or [described]
            entry = docker.setdefault(image.id, _docker_entry(image))
            entry["RepoTags"] = list(dict.fromkeys([*entry["RepoTags"], *map(_familiar, names)]))
        _add(
            out,
            "index.json",
            _dump({"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": index}),
        )
        _add(out, "manifest.json", _dump(list(docker.values())))


def _add_image(
    out: tarfile.TarFile, image: Image, layers: LayerStore, blobs: BlobStore, written: set[str]
) -> dict[str, Any]:
    """Write the blobs of an image that are not there yet; return its manifest's descriptor."""
    config = blobs.get(image.id)
    described: list[dict[str, Any]] = []
    for chain_id in image.chain_ids:
        layer = layers.get(chain_id)
        described.append(_descriptor(manifest.OCI_LAYER, layer.diff_id, layer.stream_bytes))
        if layer.diff_id not in written:
            written.add(layer.diff_id)
            _add_layer(out, layer)
    document = _dump(
        {
            "schemaVersion": 2,
            "mediaType": manifest.OCI_MANIFEST,
            "config": _descriptor(manifest.OCI_CONFIG, image.id, len(config)),
            "layers": described,
        }
    )
    name = digest.of(document)
    for blob, data in ((image.id, config), (name, document)):
        if blob not in written:
            written.add(blob)
            _add(out, _path(blob), data)
    found = _descriptor(manifest.OCI_MANIFEST, name, len(document))
    if image.platform.os:
        found["platform"] = {"os": image.platform.os, "architecture": image.platform.architecture}
    return found


def _add_layer(out: tarfile.TarFile, layer: Layer) -> None:
    info = tarfile.TarInfo(_path(layer.diff_id))
    info.size = layer.stream_bytes
    chunks = assembly.assemble(layer)
    out.addfile(info, _Stream(chunks))
    if next(chunks, b""):  # also has the digest checked
        raise FailedPrecondition(f"layer {layer.diff_id} on disk is longer than it was")


class _Stream(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:size], self._rest[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _docker_entry(image: Image) -> dict[str, Any]:
    return {
        "Config": _path(image.id),
        "RepoTags": [],
        "Layers": [_path(diff_id) for diff_id in image.diff_ids],
    }


def _named(described: dict[str, Any], name: str) -> dict[str, Any]:
    tag = name.rpartition(":")[2]
    return {**described, "annotations": {CONTAINERD_NAME: name, OCI_NAME: tag}}


def _normal_tags(asked: str, image: Image) -> list[str]:
    """Return the tags to save under: the one that ``asked`` is short for, or else all."""
    exact = [
        name
        for name in image.repo_tags
        if asked in (_familiar(name), _familiar(name).removesuffix(":latest"))
    ]
    return exact or list(image.repo_tags)


def _familiar(name: str) -> str:
    """Return a reference as docker shows it: without ``docker.io/library/``."""
    return name.removeprefix("docker.io/").removeprefix("library/") if name.startswith("docker.io/") else name


def _descriptor(media_type: str, name: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": name, "size": size}


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _path(name: str) -> str:
    return f"blobs/{name.replace(':', '/')}"


def _add(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))
