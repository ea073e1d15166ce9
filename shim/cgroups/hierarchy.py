"""Which cgroup hierarchies this machine has, and where.

``v2``: the unified hierarchy has the controllers. ``v1``: each controller is mounted by itself. ``hybrid``:
the same, with an (almost) empty unified hierarchy beside it, which is used for tracking and killing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from shim.errors import Unavailable
from shim.kernel.proc import MountInfo
from shim.model.cgroup import CgroupJoin

# fmt: off
V1_CONTROLLERS: Final = (
    "cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "hugetlb", "net_cls",
    "net_prio", "perf_event", "rdma", "misc",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where cgroups are.

    Attributes:
        v1: controller (or ``name=…``) to the mount point of its hierarchy; empty on v2.
        unified: mount point of the cgroup2 file system, empty where there is none.
    """

    v1: Mapping[str, str] = field(default_factory=dict)
    unified: str = ""

    @property
    def mode(self) -> str:
        """``v1``, ``v2`` or ``hybrid``."""
        if not self.v1:
            return "v2"
        return "hybrid" if self.unified else "v1"

    def mounts(self) -> list[str]:
        """Return the mount point of every hierarchy, each once; the unified one is the last."""
        mounts = dict.fromkeys(self.v1.values())
        if self.unified:
            mounts[self.unified] = None
        return list(mounts)

    def directory(self, controller: str, path: str) -> str | None:
        """Return the directory of a cgroup in the hierarchy of a controller; None if nothing controls it."""
        mount = self.v1.get(controller) if self.v1 else self.unified
        return os.path.join(mount, path.lstrip("/")) if mount else None

    def join(self, path: str) -> CgroupJoin:
        """Return how a new process enters a cgroup."""
        tasks = tuple(
            os.path.join(mount, path.lstrip("/"), "tasks") for mount in dict.fromkeys(self.v1.values())
        )
        return CgroupJoin(tasks, os.path.join(self.unified, path.lstrip("/")) if self.unified else "")


def detect(mounts: Iterable[MountInfo]) -> Hierarchy:
    """Return what is mounted; the first mount of each hierarchy counts.

    Raises:
        Unavailable: there are no cgroups at all.
    """
    v1: dict[str, str] = {}
    unified = ""
    for info in mounts:
        if info.fstype == "cgroup2":
            unified = unified or info.mount_point
        elif info.fstype == "cgroup":
            for option in info.super_options:
                if option in V1_CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, info.mount_point)
    if not v1 and not unified:
        raise Unavailable("no cgroup file system is mounted: mount cgroup2 at /sys/fs/cgroup")
    # A lone named hierarchy, as systemd keeps one, controls nothing: the node runs version 2.
    controllers = {name: mount for name, mount in v1.items() if not name.startswith("name=")}
    return Hierarchy(v1 if controllers else {}, unified)
