"""What an image is: references, descriptors, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How the CRI names an image: reference, digest or id, with the handler it is for."""

    image: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    user_specified_image: str = ""
    runtime_handler: str = ""
    image_ref: str = ""


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials of one pull (CRI AuthConfig). Its repr shows nothing of them."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    server_address: str = ""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Platform:
    """An entry of an image index is for one platform (OCI image index, ``platform``)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content by digest (OCI content descriptor). ``size`` in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The execution part of an OCI image configuration (``config``)."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store.

    Attributes:
        id: digest of the configuration, ``sha256:…``; the same in every API.
        repo_tags: full references with tag, ``docker.io/library/busybox:latest``.
        repo_digests: full references with the digest of the manifest (or index) that was pulled.
        chain_ids: chain id of each layer, the lowest first (OCI image config, "Layer ChainID").
        diff_ids: digest of each uncompressed layer, the lowest first.
        size_bytes: what its blobs take (compressed, as the registry has them, plus configuration); never 0.
        created: RFC 3339 text of the configuration, empty if it has none.
        pinned: never removed by the kubelet's garbage collection.
    """

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    chain_ids: tuple[str, ...]
    diff_ids: tuple[str, ...]
    size_bytes: int
    config: ImageConfig
    platform: Platform
    created: str = ""
    pinned: bool = False
