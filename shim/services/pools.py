"""Threads by purpose. Nothing here waits for a container, a registry or a caller."""

from __future__ import annotations

from shim.threads import Pool


class Pools:
    """The pools of a node.

    Attributes:
        records: one thread, so that changes of a status happen one after the other.
        cgroups: making, changing, killing, removing; the kernel may take tens of milliseconds for each.
        files: directories, configuration files and writable layers.
        plans: what takes processor time: seccomp programs, passwd files.
        journal: writing the timeline down.
        stats: reading numbers, so that a slow read never delays a start.
    """

    def __init__(self) -> None:
        self.records = Pool("records", 1)
        self.cgroups = Pool("cgroups", 4)
        self.files = Pool("files", 4)
        self.plans = Pool("plans", 1)
        self.stats = Pool("stats", 1)
        self.journal = Pool("journal", 1)

    def close(self) -> None:
        """Close all of them."""
        for pool in (self.cgroups, self.files, self.plans, self.stats, self.records, self.journal):
            pool.close()
