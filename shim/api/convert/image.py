"""Images and the ways to name them."""

from __future__ import annotations

from typing import Final

from shim._proto import api_pb2 as cri
from shim.model import image

MAX_ID: Final = 2**32 - 2


def decode_image_spec(message: cri.ImageSpec) -> image.ImageSpec:
    """Return how an image was named."""
    return image.ImageSpec(
        image=message.image,
        annotations=dict(message.annotations),
        user_specified_image=message.user_specified_image,
        runtime_handler=message.runtime_handler,
        image_ref=message.image_ref,
    )


def encode_image_spec(value: image.ImageSpec) -> cri.ImageSpec:
    """Return how an image was named, as a message."""
    return cri.ImageSpec(
        image=value.image,
        annotations=value.annotations,
        user_specified_image=value.user_specified_image,
        runtime_handler=value.runtime_handler,
        image_ref=value.image_ref,
    )


def decode_auth(message: cri.AuthConfig) -> image.Auth:
    """Return the credentials of a pull."""
    return image.Auth(
        username=message.username,
        password=message.password,
        auth=message.auth,
        server_address=message.server_address,
        identity_token=message.identity_token,
        registry_token=message.registry_token,
    )


def encode_image(value: image.Image) -> cri.Image:
    """Return an image as a message. Its user is told as a number or as a name, never both."""
    message = cri.Image(
        id=value.id,
        repo_tags=value.repo_tags,
        repo_digests=value.repo_digests,
        size=value.size_bytes,
        pinned=value.pinned,
        spec=cri.ImageSpec(image=value.id),
    )
    user = value.config.user.partition(":")[0]
    if user.isascii() and user.isdigit() and int(user) <= MAX_ID:
        message.uid.value = int(user)
    else:
        message.username = user
    return message
