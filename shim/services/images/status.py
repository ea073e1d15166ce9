"""ImageStatus."""

from __future__ import annotations

from shim.errors import NotFound
from shim.model.image import Image, ImageSpec
from shim.services.node import Node


def image_status(node: Node, image: ImageSpec) -> Image | None:
    """Return the image with this reference, id or prefix of an id, from memory; None if it is not here."""
    try:
        return node.images.resolve(image.image)
    except NotFound:
        return None
