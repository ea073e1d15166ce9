"""PullImage."""

from __future__ import annotations

from shim.images.progress import Report
from shim.model.image import Auth, ImageSpec
from shim.services.node import Node


async def pull_image(
    node: Node, image: ImageSpec, auth: Auth | None = None, *, progress: Report | None = None
) -> str:
    """Fetch an image and return its id.

    Raises:
        InvalidArgument: the reference cannot be parsed, or the handler is unknown.
        NotFound: the registry does not have it.
        RegistryUnavailable: no registry answered.
    """
    node.settings.check_handler(image.runtime_handler)
    fetched = await node.images.pull(image.image, auth, progress=progress, handler=image.runtime_handler)
    return fetched.id
