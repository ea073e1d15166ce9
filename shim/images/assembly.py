"""A layer's tar stream again, from its unpacked files, checked. Blocking."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from shim.errors import FailedPrecondition
from shim.images.layers import Layer
from shim.images.unpack import record


def assemble(layer: Layer) -> Iterator[bytes]:
    """Yield a layer's tar stream; at its end say whether it is what it was.

    Raises:
        FailedPrecondition: it is not: the layer on disk is damaged.
    """
    found = hashlib.sha256()
    layer_fd = os.open(layer.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for data in record.assemble(layer_fd, layer.displaced):
            found.update(data)
            yield data
    finally:
        os.close(layer_fd)
    if f"sha256:{found.hexdigest()}" != layer.diff_id:
        raise FailedPrecondition(
            f"layer {layer.diff_id} on disk is damaged: remove the image and pull it again"
        )
