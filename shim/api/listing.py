"""Lists, answered fast: each item is encoded once per state and kept as bytes.

A list response has one repeated field, and the concatenation of encoded messages is the encoding of their
merge (protobuf, "Last One Wins": repeated fields are concatenated). So the piece of an item is a whole
response that holds only it, and a response is its pieces joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class HasId(Protocol):
    """A spec: an immutable value with an id."""

    @property
    def id(self) -> str:
        """Its id."""


S = TypeVar("S", bound=HasId)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Piece(Generic[S, T]):
    spec: S
    state: T
    data: bytes


class Listing(Generic[S, T]):
    """Encoded items by id.

    Args:
        encode: makes the encoded response that holds only this item. It may look at nothing else but the
            spec, which never changes, and the state.
    """

    def __init__(self, encode: Callable[[S, T], bytes]) -> None:
        self._encode = encode
        self._pieces: dict[str, _Piece[S, T]] = {}

    def pieces(self, items: Iterable[tuple[S, T]], *, whole: bool) -> list[bytes]:
        """Return the pieces for ``items``.

        Args:
            items: specs with their states.
            whole: ``items`` is everything there is: pieces of others are forgotten.
        """
        kept = self._pieces
        made = {spec.id: self._piece(kept, spec, state) for spec, state in items}
        if whole:
            self._pieces = made
        else:
            kept.update(made)
        return [piece.data for piece in made.values()]

    def __len__(self) -> int:
        return len(self._pieces)

    def piece(self, spec: S, state: T) -> bytes:
        """Return the piece of one item, and keep it."""
        piece = self._pieces[spec.id] = self._piece(self._pieces, spec, state)
        return piece.data

    def keep(self, ids: Iterable[str]) -> None:
        """Forget the pieces of all others, if there can be any."""
        known = set(ids)
        if len(self._pieces) > len(known):
            self._pieces = {id_: piece for id_, piece in self._pieces.items() if id_ in known}

    def _piece(self, kept: dict[str, _Piece[S, T]], spec: S, state: T) -> _Piece[S, T]:
        piece = kept.get(spec.id)
        if piece is None or piece.spec is not spec or piece.state != state:
            piece = _Piece(spec, state, self._encode(spec, state))
        return piece
