"""Load images from an archive."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from shim.model.image import Image
from shim.services.node import Node

log = logging.getLogger(__name__)


async def load_images(node: Node, path: str, name: str = "", *, pinned: bool = False) -> Sequence[Image]:
    """Take in every image of an OCI layout or docker archive, plain or compressed.

    Args:
        node: where.
        path: the archive.
        name: reference for images that the archive gives none.
        pinned: keep them from garbage collection.

    Raises:
        InvalidArgument: it is no such archive.
        FailedPrecondition: a digest is wrong.
    """
    images = await node.images.load(path, name, pinned=pinned)
    for image in images:
        log.info("loaded image %s (%s)", image.id, ", ".join(image.repo_tags) or "without a name")
    return images
