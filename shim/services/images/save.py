"""Save images to an archive."""

from __future__ import annotations

from shim.services.node import Node


async def save_images(node: Node, names: list[str], path: str) -> None:
    """Write the named images to an OCI layout in a tar file at ``path``.

    Raises:
        NotFound: one of them is not here.
    """
    await node.images.save(names, path)
