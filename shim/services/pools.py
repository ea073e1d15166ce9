"""Threads by purpose: blocking work never takes a thread that other work needs.

asyncio's default pool has few threads, and whoever blocks in it (a slow disk, a name lookup) stops
everybody else who uses it. Nothing here waits for a container, a registry or a caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A named thread pool that is awaited."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``function(*args, **kwargs)``, called in a thread of this pool.

        When the caller is cancelled the call goes on to its end: a thread cannot be stopped half-way.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class Pools:
    """The pools of a node.

    Attributes:
        records: one thread, so that changes of a status happen one after the other.
        cgroups: making, changing, killing, removing; the kernel may take tens of milliseconds for each.
        files: directories, configuration files and writable layers.
        plans: what takes processor time: seccomp programs, passwd files.
        stats: reading numbers, so that a slow read never delays a start.
    """

    def __init__(self) -> None:
        self.records = Pool("records", 1)
        self.cgroups = Pool("cgroups", 4)
        self.files = Pool("files", 4)
        self.plans = Pool("plans", 1)
        self.stats = Pool("stats", 1)

    def close(self) -> None:
        """Close all of them."""
        for pool in (self.cgroups, self.files, self.plans, self.stats, self.records):
            pool.close()
