"""Which images a bundle holds: OCI layouts and docker archives, read into values. Blocking.

Source: OCI image specification, "Image Layout"; docker image specification v1.2, "Combined Image JSON +
Filesystem Changeset Format". Docker since 25 writes both into one file; then the index counts, and names come
from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import InvalidArgument
from shim.images import digest, manifest, platforms, reference
from shim.images.bundle import Bundle
from shim.images.register import Found
from shim.images.unpackers import Wanted
from shim.model.image import Descriptor

OCI_NAME: Final = "org.opencontainers.image.ref.name"
CONTAINERD_NAME: Final = "io.containerd.image.name"
_INDEX: Final = "index.json"
_DOCKER: Final = "manifest.json"
_MAX_NESTED: Final = 3


@dataclass(frozen=True, slots=True)
class Packed:
    """An image in a bundle.

    Attributes:
        found: its parts.
        layers: (name in the bundle, what it must be) of each layer, the lowest first.
        names: normal references with tag.
    """

    found: Found
    layers: tuple[tuple[str, Wanted], ...]
    names: tuple[str, ...]


def read_images(bundle: Bundle) -> list[Packed]:
    """Return the images of a bundle that this machine can run.

    Raises:
        InvalidArgument: it is neither format, or malformed.
        FailedPrecondition: a document is not what its digest says.
    """
    docker = _docker_entries(bundle) if bundle.has(_DOCKER) else []
    if bundle.has(_INDEX):
        images = _read_layout(bundle)
        return [_with_names(image, _docker_names(docker, image.found.id)) for image in images]
    if docker:
        return [_docker_image(bundle, entry, number) for number, entry in enumerate(docker)]
    raise InvalidArgument("neither an OCI layout (index.json) nor a docker archive (manifest.json)")


def _read_layout(bundle: Bundle) -> list[Packed]:
    entries = manifest.parse_index(bundle.read(_INDEX, manifest.MAX_DOCUMENT_BYTES), _INDEX)
    images: dict[str, Packed] = {}
    for entry in entries:
        image = _oci_image(bundle, entry)
        if image is None:
            continue
        known = images.get(image.found.id)
        images[image.found.id] = _with_names(known, image.names) if known else image
    if entries and not images:
        want = platforms.host()
        raise InvalidArgument(f"the archive has no image for {want.os}/{want.architecture}")
    return list(images.values())


def _oci_image(bundle: Bundle, entry: Descriptor) -> Packed | None:
    """Return the image that an entry of the layout's index leads to; None if it is not for this machine."""
    documents: dict[str, bytes] = {}
    data = _choose(bundle, entry, documents, _MAX_NESTED)
    if data is None:
        return None
    name, where = next(reversed(documents)), f"manifest {next(reversed(documents))}"
    parts = manifest.parse_manifest(data, where)
    config_data = _blob(bundle, parts.config)
    documents[parts.config.digest] = config_data
    config = manifest.parse_config(config_data, f"configuration {parts.config.digest}")
    if len(config.diff_ids) != len(parts.layers):
        raise InvalidArgument(f"{where}: {len(parts.layers)} layers, but {len(config.diff_ids)} diff ids")
    if config.platform.os and platforms.rank(config.platform, platforms.host()) is None:
        return None
    names = _names(entry.annotations)
    found = Found(
        id=parts.config.digest,
        manifest=name,
        layers=parts.layers,
        config=config,
        size_bytes=parts.config.size + len(data) + sum(layer.size for layer in parts.layers),
        documents=documents,
        repo_digest=str(reference.parse(names[0]).with_digest(entry.digest)) if names else "",
    )
    layers = tuple(
        (_blob_name(layer.digest), Wanted(layer.digest, layer.size, diff_id))
        for layer, diff_id in zip(parts.layers, config.diff_ids, strict=True)
    )
    return Packed(found, layers, names)


def _choose(bundle: Bundle, entry: Descriptor, documents: dict[str, bytes], depth: int) -> bytes | None:
    """Return the manifest for this machine below an entry; ``documents`` gets all on the way, in order."""
    where = f"manifest {entry.digest}"
    data = _blob(bundle, entry)
    documents[entry.digest] = data
    if manifest.media_type(data, entry.media_type, where) not in manifest.INDEXES:
        return data
    if not depth:
        raise InvalidArgument(f"{where}: indexes are nested too deep")
    for inner in platforms.choose(manifest.parse_index(data, where), platforms.host()):
        if bundle.has(_blob_name(inner.digest)):
            return _choose(bundle, inner, documents, depth - 1)
    return None


def _blob(bundle: Bundle, descriptor: Descriptor) -> bytes:
    data = bundle.read(_blob_name(descriptor.digest), manifest.MAX_CONFIG_BYTES)
    digest.verify(data, descriptor.digest, f"blob {descriptor.digest} of the archive")
    return data


def _blob_name(name: str) -> str:
    return f"blobs/{name.replace(':', '/')}"


def _docker_entries(bundle: Bundle) -> list[Mapping[str, Any]]:
    entries = manifest.load_json(bundle.read(_DOCKER, manifest.MAX_DOCUMENT_BYTES), _DOCKER)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidArgument(f"{_DOCKER}: a list of objects is expected")
    return entries


def _docker_image(bundle: Bundle, entry: Mapping[str, Any], number: int) -> Packed:
    where = f"{_DOCKER}, image {number}"
    config_name, layer_names = entry.get("Config"), entry.get("Layers") or []
    if not isinstance(config_name, str) or not _are_texts(layer_names):
        raise InvalidArgument(f"{where}: Config must be a text, Layers a list of texts")
    data = bundle.read(config_name, manifest.MAX_CONFIG_BYTES)
    config = manifest.parse_config(data, f"{where}, {config_name}")
    if len(config.diff_ids) != len(layer_names):
        raise InvalidArgument(f"{where}: {len(layer_names)} layers, but {len(config.diff_ids)} diff ids")
    id_ = digest.of(data)
    sizes = [bundle.part(name)[1] for name in layer_names]
    layers = tuple(
        (name, Wanted("", size, diff_id))
        for name, size, diff_id in zip(layer_names, sizes, config.diff_ids, strict=True)
    )
    descriptors = tuple(
        Descriptor(manifest.OCI_LAYER, diff_id, size)
        for diff_id, size in zip(config.diff_ids, sizes, strict=True)
    )
    found = Found(id_, "", descriptors, config, len(data) + sum(sizes), {id_: data})
    return Packed(found, layers, _docker_tags(entry, where))


def _docker_names(entries: list[Mapping[str, Any]], id_: str) -> tuple[str, ...]:
    """Return the tags that manifest.json gives the image whose configuration is ``id_``."""
    return tuple(
        name
        for entry in entries
        if str(entry.get("Config", "")).removesuffix(".json").endswith(digest.hex_part(id_))
        for name in _docker_tags(entry, _DOCKER)
    )


def _docker_tags(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    tags = entry.get("RepoTags") or []
    if not _are_texts(tags):
        raise InvalidArgument(f"{where}: RepoTags must be a list of texts")
    return tuple(str(reference.parse(tag)) for tag in tags)


def _names(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Return the full name that an entry of an index has; a bare tag is none."""
    for key in (CONTAINERD_NAME, OCI_NAME):
        text = annotations.get(key, "")
        if text and (key == CONTAINERD_NAME or "/" in text or ":" in text):
            ref = reference.parse(text).canonical()
            return () if ref.digest else (str(ref),)
    return ()


def _with_names(image: Packed, names: tuple[str, ...]) -> Packed:
    return Packed(image.found, image.layers, tuple(dict.fromkeys((*image.names, *names))))


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
