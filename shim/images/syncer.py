"""Group commit: everything that waits for the disk at one time shares one syncfs(2).

Syncing each file of a layer would cost a journal commit per file. One syncfs writes out all of them, and one
that starts after the last of several layers was written serves them all.
"""

from __future__ import annotations

import asyncio
import os

from shim.kernel import files
from shim.threads import Pool


class Syncer:
    """Syncs the file system that a directory lies on."""

    def __init__(self, directory: str, threads: Pool) -> None:
        self._directory = directory
        self._threads = threads
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def sync(self) -> None:
        """Return when everything written before this call is on disk.

        Raises:
            KernelError: it could not be written.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(self._round(self._running))
        await asyncio.shield(self._next)

    async def _round(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        await self._threads.run(self._sync)

    def _sync(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.syncfs(fd)
        finally:
            os.close(fd)
