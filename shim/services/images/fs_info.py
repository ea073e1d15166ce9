"""ImageFsInfo."""

from __future__ import annotations

from shim.model.stats import FilesystemUsage
from shim.services.node import Node


async def image_fs_info(node: Node) -> FilesystemUsage:
    """Return what images and writable layers take; they share one file system."""
    return await node.images.fs_usage()
