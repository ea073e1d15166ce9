"""ListImages."""

from __future__ import annotations

from shim.model.image import Image, ImageSpec
from shim.services.images.status import image_status
from shim.services.node import Node


def list_images(node: Node, wanted: ImageSpec | None = None) -> list[Image]:
    """Return all images, or the one that ``wanted`` names, from memory alone."""
    if wanted is None or not wanted.image:
        return node.images.list()
    image = image_status(node, wanted)
    return [] if image is None else [image]
