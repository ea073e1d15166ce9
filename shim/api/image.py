"""ImageService: each method translates in, calls one verb, and translates out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from shim._proto import api_pb2 as cri
from shim.api import wire
from shim.api.convert import check, info
from shim.api.convert.image import decode_auth, decode_image_spec, encode_image
from shim.api.convert.stats import encode_filesystem
from shim.api.listing import Listing
from shim.api.lists import CHUNK_BYTES
from shim.model.image import Image
from shim.services.images.fs_info import image_fs_info
from shim.services.images.list import list_images
from shim.services.images.pull import pull_image
from shim.services.images.remove import remove_image
from shim.services.images.status import image_status
from shim.services.node import Node

_ITEM: Final = 1  # the field of the list


class ImageService:
    """The methods of the CRI's ImageService; one that is missing here answers UNIMPLEMENTED."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._images = Listing[Image, None](_piece)

    async def list_images(self, request: cri.ListImagesRequest, _context: Any) -> bytes:
        """List images."""
        return b"".join(self._pieces(request.filter))

    async def stream_images(self, request: cri.StreamImagesRequest, _context: Any) -> AsyncIterator[bytes]:
        """List images, some in each message."""
        for chunk in wire.chunks(self._pieces(request.filter), CHUNK_BYTES):
            yield chunk

    def _pieces(self, wanted: cri.ImageFilter) -> list[bytes]:
        name = decode_image_spec(wanted.image)
        images = list_images(self._node, name)
        return self._images.pieces([(image, None) for image in images], whole=not name.image)

    async def image_status(self, request: cri.ImageStatusRequest, _context: Any) -> cri.ImageStatusResponse:
        """Tell about an image; an empty answer where it is not here."""
        check.given(request.image.image, "image.image")
        image = image_status(self._node, decode_image_spec(request.image))
        if image is None:
            return cri.ImageStatusResponse()
        return cri.ImageStatusResponse(
            image=encode_image(image), info=info.image_info(image) if request.verbose else None
        )

    async def pull_image(self, request: cri.PullImageRequest, _context: Any) -> cri.PullImageResponse:
        """Fetch an image."""
        check.given(request.image.image, "image.image")
        auth = decode_auth(request.auth) if request.HasField("auth") else None
        return cri.PullImageResponse(
            image_ref=await pull_image(self._node, decode_image_spec(request.image), auth)
        )

    async def remove_image(self, request: cri.RemoveImageRequest, _context: Any) -> cri.RemoveImageResponse:
        """Remove an image."""
        check.given(request.image.image, "image.image")
        await remove_image(self._node, decode_image_spec(request.image))
        return cri.RemoveImageResponse()

    async def image_fs_info(self, _request: cri.ImageFsInfoRequest, _context: Any) -> cri.ImageFsInfoResponse:
        """Tell the disk use: images and writable layers share one file system."""
        usage = encode_filesystem(await image_fs_info(self._node))
        return cri.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])


def _piece(image: Image, _state: None) -> bytes:
    return wire.data(_ITEM, encode_image(image).SerializeToString())
