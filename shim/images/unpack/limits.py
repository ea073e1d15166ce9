"""What one layer may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shim.errors import ResourceExhausted

_TOO_MUCH: Final = "the layer has more entries or bytes than the configuration allows"


@dataclass(slots=True)
class Limits:
    """What one layer may still take; beyond it the pull fails.

    Attributes:
        entries: of the archive, and directories that they imply.
        stream_bytes: of the archive, plain.
        deferred_bytes: of the paths that are looked up in the layers below.
        looks: at directories, for those that lie where another entry replaces one.
    """

    entries: int = 2_000_000
    stream_bytes: int = 1 << 40
    deferred_bytes: int = 32 << 20
    looks: int = 200_000_000

    def check_stream(self, count: int) -> None:
        """Say whether ``count`` bytes of an archive are too many, whatever is in them.

        Raises:
            ResourceExhausted: they are.
        """
        if count > self.stream_bytes:
            raise ResourceExhausted(_TOO_MUCH)

    def take_entry(self) -> None:
        """Count one entry.

        Raises:
            ResourceExhausted: it is one too many.
        """
        self.entries -= 1
        if self.entries < 0:
            raise ResourceExhausted(_TOO_MUCH)

    def take_deferred(self, *paths: bytes) -> None:
        """Count paths that are to be looked up in the layers below.

        Raises:
            ResourceExhausted: they are too long in sum.
        """
        self.deferred_bytes -= sum(map(len, paths))
        if self.deferred_bytes < 0:
            raise ResourceExhausted("the layer has too many deep paths that only those below it describe")

    def take_look(self, count: int) -> None:
        """Count directories that are looked at since an entry replaces another.

        Raises:
            ResourceExhausted: they are too many.
        """
        self.looks -= count
        if self.looks < 0:
            raise ResourceExhausted("the layer's entries replace each other too often")

    def take_implied(self, path: bytes) -> None:
        """Count a directory that is made only since something lies in it: one entry may imply thousands.

        Raises:
            ResourceExhausted: it is one too many.
        """
        self.take_entry()
        self.take_deferred(path)
