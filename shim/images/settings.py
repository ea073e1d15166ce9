"""What the image store needs to know from the configuration."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and places of the image store.

    Attributes:
        config_paths: directories with ``<host>/hosts.toml``; the first that has the host counts.
        max_downloads: blobs fetched and unpacked at once, over all pulls; each has a process of its own.
        docker_config: file with credentials of this node, as docker writes it; empty for none.
        offline: the network is not to be used.
        stall_timeout_s: a transfer without a byte for so long fails.
        hang_timeout_s: so does a layer of which for so long no byte came and none was unpacked.
        connect_timeout_s: a registry that takes no connection for so long is not there.
        max_entries, max_layer_bytes: what one unpacked layer may have; bombs stop there.
        pinned: shell patterns of references that garbage collection must leave.
        watch_dir: directory whose archives are loaded; empty for none.
    """

    config_paths: tuple[str, ...] = (
        "/etc/cri-shim/certs.d",
        "/etc/containerd/certs.d",
        "/etc/docker/certs.d",
    )
    docker_config: str = ""
    offline: bool = False
    max_downloads: int = 4
    stall_timeout_s: float = 60.0
    hang_timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    max_entries: int = 2_000_000
    max_layer_bytes: int = 256 << 30
    pinned: tuple[str, ...] = ()
    watch_dir: str = ""
