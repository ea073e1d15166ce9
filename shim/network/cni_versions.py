"""Versions of the CNI specification: which are known here, and what each brought. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

KNOWN: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
UNSAID: Final = "0.1.0"  # what a configuration without a version means


def known(versions: Iterable[str]) -> tuple[str, ...]:
    """Return those that this program speaks, each once, the highest first."""
    there = set(versions)
    return tuple(version for version in reversed(KNOWN) if version in there)


def is_at_least(version: str, other: str) -> bool:
    """Compare two known versions."""
    return KNOWN.index(version) >= KNOWN.index(other)


def passes_result_to_del(version: str) -> bool:
    """Tell whether DEL gets the result of ADD."""
    return is_at_least(version, "0.4.0")


def has_check(version: str) -> bool:
    """Tell whether there is CHECK."""
    return is_at_least(version, "0.4.0")


def has_status_and_gc(version: str) -> bool:
    """Tell whether there are STATUS and GC."""
    return is_at_least(version, "1.1.0")


def choose(offered: Iterable[str], supported: Mapping[str, Collection[str] | None]) -> str:
    """Return the highest version that is offered and that every plugin speaks; empty where there is none.

    Args:
        offered: what the configuration is written for.
        supported: by plugin; None: it did not say, so it counts as one that speaks all.
    """
    for version in known(offered):
        if all(spoken is None or version in spoken for spoken in supported.values()):
            return version
    return ""
