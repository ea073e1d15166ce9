"""Tokens: each stands for one request to come, for a minute, once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from shim.errors import ResourceExhausted

LIFETIME_S: Final = 60.0
MOST: Final = 1024
_BYTES: Final = 16

T = TypeVar("T")


class Tokens(Generic[T]):
    """What was prepared, by token; looked up by a digest, so that the time it takes tells nothing.

    Args:
        now: a clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._waiting: dict[bytes, tuple[float, bytes, T]] = {}

    def add(self, value: T) -> str:
        """Return a new token for a value.

        Raises:
            ResourceExhausted: too many wait to be used.
        """
        self._drop_expired()
        if len(self._waiting) >= MOST:
            raise ResourceExhausted(f"{MOST} streaming requests wait for their clients already; try again")
        token = secrets.token_urlsafe(_BYTES)
        self._waiting[_digest(token)] = (self._now() + LIFETIME_S, token.encode(), value)
        return token

    def take(self, token: str) -> T | None:
        """Return the value of a token and forget it; None if it is wrong, used or too old."""
        self._drop_expired()
        _, expected, value = self._waiting.pop(_digest(token), (0.0, b"", None))
        raw = token.encode(errors="replace")
        return value if expected and hmac.compare_digest(expected, raw) else None

    def _drop_expired(self) -> None:
        now = self._now()
        while self._waiting:
            oldest = next(iter(self._waiting))
            if self._waiting[oldest][0] > now:
                return
            del self._waiting[oldest]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
