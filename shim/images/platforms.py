"""Which entry of an image index fits this machine. Pure, but for asking the machine once.

Names are Go's (GOOS, GOARCH), as in the OCI image index, ``platform``.
"""

from __future__ import annotations

import functools
import platform as host_platform
from collections.abc import Iterable
from typing import Final

from shim.model.image import Descriptor, Platform

_ARCHITECTURES: Final = {
    "x86_64": Platform("linux", "amd64"),
    "aarch64": Platform("linux", "arm64", "v8"),
    "armv7l": Platform("linux", "arm", "v7"),
    "armv6l": Platform("linux", "arm", "v6"),
    "ppc64le": Platform("linux", "ppc64le"),
    "s390x": Platform("linux", "s390x"),
    "riscv64": Platform("linux", "riscv64"),
    "loongarch64": Platform("linux", "loong64"),
    "i686": Platform("linux", "386"),
}
_ALIASES: Final = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_NO_IMAGE: Final = "unknown"  # attestations in an index have platform unknown/unknown


@functools.cache
def host() -> Platform:
    """Return the platform of this machine."""
    machine = host_platform.machine()
    return _ARCHITECTURES.get(machine, Platform("linux", machine))


def rank(have: Platform, want: Platform) -> int | None:
    """Return how well an image for ``have`` runs on ``want``: 0 is best, None not at all."""
    if have.os.lower() != want.os:
        return None
    architecture = _ALIASES.get(have.architecture.lower(), have.architecture.lower())
    if architecture != want.architecture:
        # An arm64 machine runs 32-bit programs too, where its processors have that mode.
        return (
            10 + _arm_rank(have.variant, "v8")
            if (architecture, want.architecture) == ("arm", "arm64")
            else None
        )
    if architecture == "arm":
        found = _arm_rank(have.variant, want.variant)
        return None if found < 0 else found
    if architecture == "amd64" and have.variant not in ("", "v1"):
        return None  # v2 and later need more than every amd64 processor has
    return 0


def _arm_rank(have: str, want: str) -> int:
    """Return by how many steps ``have`` is older than ``want``; negative if it is newer."""
    return int((want or "v7")[1:]) - int(have[1:]) if have[1:].isdigit() else int((want or "v7")[1:]) - 7


def choose(entries: Iterable[Descriptor], want: Platform) -> list[Descriptor]:
    """Return the entries that can run on ``want``, the best first, those without a platform last."""
    ranked: list[tuple[int, int, Descriptor]] = []
    for position, entry in enumerate(entries):
        found = 100 if entry.platform is None else rank(entry.platform, want)
        if found is not None and not (entry.platform and entry.platform.os == _NO_IMAGE):
            ranked.append((found, position, entry))
    return [entry for _, _, entry in sorted(ranked, key=lambda item: item[:2])]
