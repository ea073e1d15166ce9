"""What one layer may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shim.errors import ResourceExhausted

_TOO_MUCH: Final = "the layer has more entries or bytes than the configuration allows"


@dataclass(slots=True)
class Limits:
    """What one layer may take; beyond it the pull fails."""

    entries: int = 2_000_000
    stream_bytes: int = 1 << 40

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
