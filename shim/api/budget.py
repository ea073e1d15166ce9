"""Lists stay within one message: what would make them outgrow it is refused before it is made."""

from __future__ import annotations

from typing import Final

from shim import errors

# The kubelet, crictl and we take messages of up to 16 MiB.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
# Room for what changes later: states, and objects of calls under way.
LIST_BYTES: Final = 15 * 1024 * 1024


def check_list(kind: str, size: int, another: bytes) -> None:
    """Check that a list of ``size`` bytes can take ``another`` item.

    Raises:
        ResourceExhausted: it would be too large for a message, and then no list call would work any more.
    """
    size += len(another)
    if size > LIST_BYTES:
        raise errors.ResourceExhausted(
            f"the list of {kind} would take {size} bytes with this one, and an answer has at most"
            f" {MAX_MESSAGE_BYTES}: use fewer or shorter labels and annotations, or remove some {kind}"
        )
