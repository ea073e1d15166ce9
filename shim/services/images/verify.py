"""Check the layers of images on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from shim.images.verify import Verdict
from shim.model.image import Auth
from shim.services.node import Node


def verify_images(
    node: Node, names: Sequence[str], *, repair: bool = False, auth: Auth | None = None
) -> AsyncIterator[Verdict]:
    """Check layers, and tell of each what was found.

    Args:
        node: where.
        names: of the images; none means all layers.
        repair: fetch those that are damaged again.
        auth: for the registry.

    Raises:
        NotFound: there is no such image.
    """
    return node.images.verify(names, repair=repair, auth=auth)
