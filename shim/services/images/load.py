"""Load images from an archive."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from shim.model.image import Image
from shim.services.node import Node

log = logging.getLogger(__name__)


async def load_images(node: Node, path: str, name: str = "") -> Sequence[Image]:
    """Take in every image of an OCI layout or docker archive, plain or compressed.

    Args:
        node: where.
        path: the archive.
        name: what its sender calls it, for the log.

    Raises:
        InvalidArgument: it is no such archive, or a digest is wrong.
    """
    images = await node.images.load(path)
    log.info("loaded %d images from %s", len(images), name or path)
    return images
