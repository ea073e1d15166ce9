"""Digests of content, and the ids that are made of them. Pure.

Source: OCI image specification, "Digests"; image configuration, "Layer ChainID".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument

_LENGTHS: Final = {"sha256": 64, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-f]+")


def of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of ``data``."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def check(text: object, where: str) -> str:
    """Return ``text`` if it is a digest that can be verified here; it then is safe as a file name too.

    Raises:
        InvalidArgument: it is not.
    """
    if isinstance(text, str):
        algorithm, _, value = text.partition(":")
        if len(value) == _LENGTHS.get(algorithm) and _HEX.fullmatch(value):
            return text
    raise InvalidArgument(f"{where}: {str(text)[:100]!r} is no sha256 or sha512 digest")


def verify(data: bytes, want: str, what: str) -> None:
    """Raise FailedPrecondition where ``data`` is not what ``want`` says."""
    found = of(data, want.partition(":")[0])
    if found != want:
        raise FailedPrecondition(f"{what}: unexpected digest {found}, expected {want}")


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the chain id of each layer, the lowest first: the layer's diff id and all below it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def hex_part(text: str) -> str:
    """Return what stands behind the algorithm."""
    return text.partition(":")[2]
