"""Small content by digest: manifests, indexes and configurations, as they came.

Layers are not among them; they lie unpacked. A blob is written whole, synced and verified when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from shim.errors import NotFound
from shim.images import digest
from shim.kernel import files


class BlobStore:
    """Blobs below ``blobs/<algorithm>``. Blocking.

    Args:
        root: the image store's directory.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "blobs")

    def start(self) -> None:
        """Make the directories; remove what a crash left half written."""
        for algorithm in ("sha256", "sha512"):
            directory = os.path.join(self._root, algorithm)
            os.makedirs(directory, mode=0o700, exist_ok=True)
            for name in os.listdir(directory):
                if name.startswith("."):
                    os.unlink(os.path.join(directory, name))

    def put(self, name: str, data: bytes) -> None:
        """Store verified content durably. Idempotent; what is damaged on disk is replaced."""
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                if file.read(len(data) + 1) == data:
                    return
        except FileNotFoundError:
            pass
        files.write_atomic(path, data, durable=True)

    def get(self, name: str) -> bytes:
        """Return content.

        Raises:
            NotFound: it is not there.
            FailedPrecondition: it is damaged.
        """
        try:
            with open(self._path(name), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise NotFound("blob", name) from None
        digest.verify(data, name, f"blob {name} on disk")
        return data

    def collect(self, needed: Iterable[str]) -> None:
        """Remove what is not needed."""
        keep = set(needed)
        for algorithm in ("sha256", "sha512"):
            directory = os.path.join(self._root, algorithm)
            for value in os.listdir(directory):
                if not value.startswith(".") and f"{algorithm}:{value}" not in keep:
                    os.unlink(os.path.join(directory, value))

    def _path(self, name: str) -> str:
        algorithm, _, value = digest.check(name, "blob").partition(":")
        return os.path.join(self._root, algorithm, value)
