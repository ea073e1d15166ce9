"""Manifests, indexes and configurations: bytes in, model values out. Pure; the bytes are hostile.

Source: OCI image specification 1.1 (manifest, image index, image configuration); distribution, "Image
Manifest V 2, Schema 2". A document that claims two types at once is refused (CVE-2021-41190), so is a key
given twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import InvalidArgument
from shim.images import digest
from shim.model.image import Descriptor, ImageConfig, Platform

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
INDEXES: Final = (OCI_INDEX, DOCKER_INDEX)
MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
ACCEPT: Final = ", ".join((*MANIFESTS, *INDEXES, "*/*"))
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"
_CONFIGS: Final = (OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", "")
_FOREIGN: Final = ("foreign", "nondistributable")

MAX_DOCUMENT_BYTES: Final = 4 << 20  # as registries have to accept (distribution specification 1.1)
MAX_CONFIG_BYTES: Final = 8 << 20
_MAX_LAYERS: Final = 500  # overlayfs takes no more (OVL_MAX_STACK)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of one image. ``layers``: the lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """An image configuration."""

    execution: ImageConfig
    platform: Platform
    diff_ids: tuple[str, ...]
    created: str


def media_type(data: bytes, declared: str, where: str) -> str:
    """Return what a document is: INDEXES or MANIFESTS have it.

    Args:
        data: the document.
        declared: Content-Type or the descriptor's media type; may be empty.
        where: for messages.

    Raises:
        InvalidArgument: it is neither, both, or not what is declared.
    """
    document = load_object(data, where)
    inner = _text(document, "mediaType", where)
    if declared.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        raise InvalidArgument(f"{where}: docker's manifest schema 1 is not supported; push the image again")
    known = (*INDEXES, *MANIFESTS)
    if inner and declared in known and inner != declared:
        raise InvalidArgument(f"{where}: it is declared as {declared!r} but says it is {inner!r}")
    found = inner or (declared if declared in known else "")
    is_index, is_manifest = "manifests" in document, "layers" in document or "config" in document
    if is_index and is_manifest:
        raise InvalidArgument(f"{where}: it is an index and a manifest at once")
    if not found:
        found = OCI_INDEX if is_index else OCI_MANIFEST
    if (found in INDEXES and not is_index) or (found in MANIFESTS and not is_manifest) or found not in known:
        raise InvalidArgument(f"{where}: it is no image index or manifest (media type {found[:100]!r})")
    return str(found)


def parse_index(data: bytes, where: str) -> tuple[Descriptor, ...]:
    """Return the entries of an index, in order."""
    entries = _list(load_object(data, where).get("manifests"), where)
    return tuple(_descriptor(entry, where) for entry in entries)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the parts of an image manifest.

    Raises:
        InvalidArgument: it is malformed, an artifact that is no image, or has layers that lie elsewhere.
    """
    document = load_object(data, where)
    config = _descriptor(document.get("config"), f"{where}, config")
    if config.media_type not in _CONFIGS:
        raise InvalidArgument(f"{where}: it is no container image but {config.media_type[:100]!r}")
    if config.size > MAX_CONFIG_BYTES:
        raise InvalidArgument(f"{where}: a configuration of {config.size} bytes is too large")
    layers = tuple(_descriptor(entry, f"{where}, layers") for entry in _list(document.get("layers"), where))
    if len(layers) > _MAX_LAYERS:
        raise InvalidArgument(
            f"{where}: {len(layers)} layers are more than overlayfs can stack ({_MAX_LAYERS})"
        )
    for layer in layers:
        kind = layer.media_type
        if any(word in kind for word in _FOREIGN):
            raise InvalidArgument(f"{where}: layer {layer.digest} is a foreign layer, which is not supported")
        if "tar" not in kind and not kind.startswith("application/octet-stream"):
            raise InvalidArgument(f"{where}: layer {layer.digest} is of type {kind[:100]!r}, no tar archive")
        if "+encrypted" in kind:
            raise InvalidArgument(f"{where}: layer {layer.digest} is encrypted, which is not supported")
    return Manifest(config, layers)


def parse_config(data: bytes, where: str) -> Config:
    """Return what an image configuration says."""
    document = load_object(data, where)
    rootfs = document.get("rootfs")
    diff_ids = _list(
        rootfs.get("diff_ids") if isinstance(rootfs, dict) else None, f"{where}, rootfs.diff_ids"
    )
    inner = document.get("config") or {}
    if not isinstance(inner, dict):
        raise InvalidArgument(f"{where}: config is no object")
    return Config(
        execution=_execution(inner, where),
        platform=_platform(document, where),
        diff_ids=tuple(digest.check(diff_id, f"{where}, rootfs.diff_ids") for diff_id in diff_ids),
        created=_text(document, "created", where),
    )


def _execution(inner: Mapping[str, Any], where: str) -> ImageConfig:
    volumes = inner.get("Volumes") or {}
    labels = inner.get("Labels") or {}
    if not isinstance(volumes, dict) or not isinstance(labels, dict):
        raise InvalidArgument(f"{where}: config.Volumes and config.Labels must be objects")
    return ImageConfig(
        user=_text(inner, "User", where),
        env=_texts(inner, "Env", where),
        entrypoint=_texts(inner, "Entrypoint", where),
        cmd=_texts(inner, "Cmd", where),
        working_dir=_text(inner, "WorkingDir", where),
        volumes=tuple(volumes),
        labels={key: _text(labels, key, where) for key in labels},
        stop_signal=_text(inner, "StopSignal", where),
    )


def load_object(data: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object in which no key comes twice.

    Raises:
        InvalidArgument: it is no such thing, or too large.
    """
    document = load_json(data, where)
    if not isinstance(document, dict):
        raise InvalidArgument(f"{where}: a JSON object is expected")
    return document


def load_json(data: bytes, where: str) -> Any:
    """Return a JSON value in which no key comes twice.

    Raises:
        InvalidArgument: it is no such thing, or too large.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise InvalidArgument(f"{where}: a document of {len(data)} bytes is too large")
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where}: malformed JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _list(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidArgument(f"{where}: a list is expected")
    return value


def _text(document: Mapping[str, Any], key: str, where: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument(f"{where}: {key[:100]} must be a text")
    return value


def _texts(document: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = document.get(key)
    if isinstance(values, str) and key in ("Cmd", "Entrypoint"):  # docker before 1.10 wrote it so
        return (values,)
    values = _list(values, f"{where}, {key}")
    if not all(isinstance(value, str) for value in values):
        raise InvalidArgument(f"{where}: {key} must be a list of texts")
    return tuple(values)


def _platform(value: Mapping[str, Any], where: str) -> Platform:
    return Platform(
        os=_text(value, "os", where),
        architecture=_text(value, "architecture", where),
        variant=_text(value, "variant", where),
        os_version=_text(value, "os.version", where),
    )


def _descriptor(value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: a descriptor is expected")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
        raise InvalidArgument(f"{where}: the size {str(size)[:40]!r} of a descriptor is no size")
    platform = value.get("platform")
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidArgument(f"{where}: annotations must be an object")
    return Descriptor(
        media_type=_text(value, "mediaType", where),
        digest=digest.check(value.get("digest"), where),
        size=size,
        platform=_platform(platform, where) if isinstance(platform, dict) else None,
        annotations={key: _text(annotations, key, where) for key in annotations},
        urls=_texts(value, "urls", where),
    )
