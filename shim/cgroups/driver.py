"""The ``cgroupfs`` driver: cgroups of containers, execs and pod inits, by path.

Only a cgroup that is named by an id is ever killed or removed: whatever a record says, the kubelet's own
cgroups and the node's are safe.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Container, Sequence

from shim.cgroups import killing, limits, names, oom, plan, tree
from shim.cgroups.devices import DeviceGuard
from shim.cgroups.hierarchy import Hierarchy
from shim.cgroups.open_files import OpenFiles, affordable
from shim.cgroups.stats import Reader
from shim.errors import FailedPrecondition, InvalidArgument, KernelError
from shim.kernel import cgroupfs
from shim.model.cgroup import CgroupJoin, DeviceRule, Place
from shim.model.resources import Resources
from shim.model.stats import CgroupDetails, CgroupUsage, CpuStats

log = logging.getLogger(__name__)


class CgroupfsDriver:
    """Makes and removes cgroups by itself.

    Blocking; every method may run in several threads at once, but those that read numbers: they share one.

    Args:
        hierarchy: where cgroups are; it has a unified mount, by which processes are tracked and killed.
        own_parent: parent of pods that come without one.
    """

    driver = "cgroupfs"

    def __init__(self, hierarchy: Hierarchy, own_parent: str) -> None:
        if not hierarchy.unified:
            raise FailedPrecondition("no cgroup2 to track processes with: mount it, see the doctor")
        self._hierarchy = hierarchy
        self._guard = DeviceGuard(hierarchy)
        self._files = OpenFiles(affordable())
        self._reader = Reader(hierarchy, self._files)
        self._own_parent = names.normal(own_parent)

    def close(self) -> None:
        """Let go of what the driver holds; cgroups stay."""
        self._files.close()

    def parent(self, asked: str) -> str:
        """Return the parent in force for a request's cgroup_parent. Pure.

        Raises:
            InvalidArgument: it is no place for a cgroup.
        """
        return names.resolve_parent(asked, self._own_parent)

    def path(self, parent: str, id_: str) -> str:
        """Return the cgroup of a container or pod init. Pure."""
        return names.of(parent, id_)

    def create(self, path: str, resources: Resources, devices: Sequence[DeviceRule] = ()) -> Place:
        """Make a cgroup with its limits; what was made is removed again if a limit is refused.

        Args:
            path: of the cgroup.
            resources: limits.
            devices: what it may do with devices; without rules nothing.

        Raises:
            InvalidArgument: a limit makes no sense. KernelError: the kernel refuses.
            FailedPrecondition: the node lacks what a limit needs.
        """
        path = own(path)
        try:
            tree.make(self._hierarchy, path)
            limits.apply(self._hierarchy, path, self._plan(resources, None))
            self._guard.limit(path, devices)
        except BaseException:
            self.remove(path)
            raise
        return Place(path, self._hierarchy.join(path), self._hierarchy.unified + path)

    def settle(self, path: str) -> None:
        """Let a cgroup live by its process alone: that is in it, or will never come. Idempotent."""

    def update(self, path: str, resources: Resources) -> None:
        """Change the limits that ``resources`` gives: all of them, or none.

        Raises:
            InvalidArgument: a limit makes no sense. KernelError: the kernel refuses, or the cgroup is gone.
            Unavailable: systemd does not answer.
        """
        path = own(path)
        writes = self._plan(resources, self._memory_now(path))
        limits.replace(self._hierarchy, path, writes, lambda: self._tell(path, resources))

    def _tell(self, path: str, resources: Resources) -> None:
        """Tell of new limits whoever else would write the old ones again: nobody."""

    def check(self, resources: Resources) -> None:
        """Check what can be told without a cgroup. Pure.

        Raises:
            InvalidArgument, FailedPrecondition: a limit makes no sense, or not on this node.
        """
        self._plan(resources, None)

    def create_exec(self, path: str, number: int) -> Place:
        """Make the cgroup of an exec below a container's; where it cannot be made: the container's own."""
        path = own(path)
        join, below = self._hierarchy.join(path), names.of_exec(path, number)
        try:
            cgroupfs.make(self._hierarchy.unified + below)
        except KernelError as error:
            log.warning("exec %d is not tracked by itself: %s", number, error)
            return Place(path, join)
        directory = self._hierarchy.unified + below
        return Place(below, CgroupJoin(join.v1_tasks, directory), directory)

    def remove_exec(self, path: str, number: int) -> bool:
        """Remove the cgroup of an exec unless something runs in it; return whether it is gone."""
        return cgroupfs.remove(self._hierarchy.unified + names.of_exec(own(path), number))

    def kill(self, path: str) -> None:
        """Kill every process in a cgroup. Idempotent; does not wait for their ends."""
        killing.kill(self._hierarchy, own(path))

    def remove(self, path: str) -> None:
        """Remove a cgroup with those below it, and parents of ours that nothing is left in. Idempotent."""
        killing.thaw(self._hierarchy, own(path))
        tree.remove(self._hierarchy, own(path))
        self._files.forget(path)

    def remove_unknown(self, known: frozenset[str]) -> None:
        """Kill and remove cgroups below our own parent that belong to no id in ``known``."""
        found = {
            name
            for mount in self._hierarchy.mounts()
            for name in cgroupfs.children(mount + self._own_parent)
            if names.id_of(name) not in (None, *known)
        }
        for name in sorted(found):
            path = posixpath.join(self._own_parent, name)
            log.warning("cgroup %s, which has no record, is removed", path)
            self.kill(path)
            self.remove(path)

    def oom_watch(self, path: str) -> dict[str, int]:
        """Return descriptors that tell of the OOM killer (``oom.watch``); the caller closes them."""
        return oom.watch(self._hierarchy, own(path))

    def cpu(self, path: str) -> CpuStats:
        """Read CPU time alone. KernelError once the cgroup is gone."""
        return self._reader.cpu(path)

    def usage(self, path: str) -> CgroupUsage:
        """Read what statistics tell, of any cgroup. KernelError once it is gone."""
        return self._reader.usage(path)

    def details(self, path: str) -> CgroupDetails:
        """Read what metrics tell, of any cgroup. KernelError once it is gone."""
        return self._reader.details(path)

    def processes(self, path: str) -> list[int]:
        """Return the pids in a cgroup and below; none once it is gone."""
        return self._reader.processes(path)

    def keep_open(self, paths: Container[str]) -> None:
        """Close what is open of all other cgroups to read numbers, and what was not read lately."""
        self._files.keep(paths)

    def _plan(self, resources: Resources, memory_now_bytes: int | None) -> list[plan.Write]:
        if self._hierarchy.v1:
            return plan.plan_v1(resources, memory_now_bytes)
        return plan.plan_v2(resources)

    def _memory_now(self, path: str) -> int | None:
        directory = self._hierarchy.v1.get("memory")
        if directory is None:
            return None
        return int(cgroupfs.read(directory + path + "/memory.limit_in_bytes"))


def own(path: str) -> str:
    """Return the path of a container's cgroup in its normal form. Pure.

    Raises:
        InvalidArgument: it is not one.
    """
    path = names.normal(path)
    if names.id_of(posixpath.basename(path)) is None:
        raise InvalidArgument(f"cgroup {path!r} is not a container's: its name is no id")
    return path
