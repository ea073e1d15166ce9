"""Load images from an archive."""

from __future__ import annotations

from shim.model.image import Image
from shim.services.node import Node


async def load_images(node: Node, path: str) -> list[Image]:
    """Take in every image of an OCI layout or docker archive, plain or compressed.

    Raises:
        InvalidArgument: it is no such archive, or a digest is wrong.
    """
    return await node.images.load(path)
