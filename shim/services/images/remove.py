"""RemoveImage."""

from __future__ import annotations

from shim.model.image import ImageSpec
from shim.services.node import Node


async def remove_image(node: Node, image: ImageSpec) -> None:
    """Remove a name, or with an id the image with all its names. Idempotent.

    Containers that were made of it keep its layers until they are removed.
    """
    await node.images.remove(image.image)
