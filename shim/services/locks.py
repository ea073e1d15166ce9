"""One lock per object, for as long as somebody wants it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Locks:
    """Asyncio locks by id. A lock exists while it is held or waited for, so that churn leaves nothing.

    Order, where a verb needs several: a sandbox's before those of its containers.
    """

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def hold(self, id_: str) -> AsyncIterator[None]:
        """Hold the lock of ``id_``. Not reentrant."""
        lock, users = self._locks.get(id_, (None, 0))
        if lock is None:
            lock = asyncio.Lock()
        self._locks[id_] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[id_]
            if users == 1:
                del self._locks[id_]
            else:
                self._locks[id_] = (lock, users - 1)

    def __len__(self) -> int:
        return len(self._locks)
