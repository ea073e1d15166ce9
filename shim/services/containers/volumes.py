"""What images have to do with a container's volumes: images that are volumes, volumes that images declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.model.container import ContainerConfig
from shim.model.image import Image
from shim.model.mount import Volume
from shim.runtime.plan_volumes import normal
from shim.runtime.wire import IMAGE_VOLUME
from shim.services.node import Node
from shim.services.validate.values import MAX_PATH

MAX_DECLARED: Final = 128
# The runtime's own: an image that wants a volume there gets what every container has.
_OURS: Final = ("/proc", "/sys", "/dev")


def resolve_images(node: Node, config: ContainerConfig) -> list[tuple[Volume, Image]]:
    """Return the volumes that are images, in their order, with what they name.

    Raises:
        FailedPrecondition: an image is not here.
    """
    found = []
    for volume in config.volumes:
        if volume.image is None:
            continue
        try:
            found.append((volume, node.images.resolve(volume.image.image)))
        except NotFound as error:
            raise FailedPrecondition(
                f"{IMAGE_VOLUME}the mount on {volume.container_path!r}: {error}; pull it first"
            ) from None
    return found


def check_sub_paths(node: Node, mounted: Sequence[tuple[Volume, Image]]) -> None:
    """Check that the part of each image that is wanted is there. Blocking.

    Raises:
        InvalidArgument: it is not.
    """
    for volume, image in mounted:
        if volume.image_sub_path and not node.images.has_path(image, volume.image_sub_path):
            raise InvalidArgument(
                f"{IMAGE_VOLUME}the mount on {volume.container_path!r}: image {image.id} has no"
                f" {volume.image_sub_path!r}"
            )


def declared(config: ContainerConfig, image: Image) -> list[str]:
    """Return where the image wants volumes (``config.Volumes``), less those of the request. Pure.

    Raises:
        InvalidArgument: the image declares what is no path, or more volumes than anybody can mean.
    """
    if len(image.config.volumes) > MAX_DECLARED:
        raise InvalidArgument(
            f"image {image.id} declares {len(image.config.volumes)} volumes; at most {MAX_DECLARED} are made"
        )
    taken = {normal(volume.container_path) for volume in config.volumes}
    wanted = []
    for text in image.config.volumes:
        if "\0" in text or len(text) > MAX_PATH:
            raise InvalidArgument(f"image {image.id} declares a volume at {text[:80]!r}, which is no path")
        path = normal(text)
        ours = path == "/" or path in _OURS or path.startswith(tuple(f"{each}/" for each in _OURS))
        if not ours and path not in taken:
            taken.add(path)
            wanted.append(path)
    return sorted(wanted)
