"""Make and remove one cgroup in every hierarchy, with what it needs above it.

A container's cgroup is ours by its name, an id; parents that this program makes are marked (an extended
attribute). A parent that was there before belongs to someone else, most often the kubelet: it is never
removed, and all that is ever written into it is the list of controllers for those below (version 2), without
which limits could not be set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Final

from shim.cgroups import names
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import KernelError
from shim.kernel import cgroupfs

_ATTEMPTS: Final = 5
_REMOVE_S: Final = 2.0
_CONTROLLERS: Final = frozenset({"cpu", "cpuset", "memory", "pids", "io", "hugetlb"})
_INHERITED: Final = ("cpuset.cpus", "cpuset.mems")


def make(h: Hierarchy, path: str) -> None:
    """Make a cgroup in every hierarchy, with missing parents. Idempotent.

    Raises:
        KernelError: some hierarchies may have it already; ``remove`` takes it away.
    """
    for mount in h.mounts():
        _make_in(h, mount, path)


def remove(h: Hierarchy, path: str) -> None:
    """Remove a cgroup and those below it from every hierarchy, then parents of ours that are empty.

    Idempotent. Waits a little: the kernel refuses until the last process is quite gone.

    Raises:
        KernelError: EBUSY, with the directory that something still lives in.
    """
    deadline = time.monotonic() + _REMOVE_S
    for mount in h.mounts():
        _remove_below(mount + path, deadline)
        for parent in reversed(names.ancestors(path)):
            if not cgroupfs.is_marked(mount + parent) or not cgroupfs.remove(mount + parent):
                break


def descendants(directory: str) -> list[str]:
    """Return the cgroups at and below a directory, the deepest first."""
    found = [directory]
    for current in found:  # grows while it is walked
        found += [os.path.join(current, name) for name in cgroupfs.children(current)]
    return found[::-1]


def _make_in(h: Hierarchy, mount: str, path: str) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            if attempt:
                for part in names.ancestors(path):
                    if _make_one(h, mount, part):
                        _mark(mount + part)
            _make_one(h, mount, path)
        except KernelError as error:
            # Its parent is missing, or one of ours that became empty was removed in between.
            if error.errno not in (errno.ENOENT, errno.ENODEV) or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _make_one(h: Hierarchy, mount: str, path: str) -> bool:
    if h.mode == "v2":
        _enable_above(mount, path)
    if not cgroupfs.make(mount + path):
        return False
    if mount == h.v1.get("cpuset"):
        _inherit_cpuset(mount + path)
    return True


def _mark(directory: str) -> None:
    # Without the right to mark, a parent of ours stays when it is empty: no reason to refuse a container.
    with contextlib.suppress(KernelError):
        cgroupfs.mark(directory)


def _inherit_cpuset(directory: str) -> None:
    """A new cpuset of version 1 has no CPU and no memory node, and takes no process until it has.

    Its parent may be as new, made by another thread that has not come to this yet.
    """
    parent = os.path.dirname(directory)
    for name in _INHERITED:
        file = os.path.join(directory, name)
        if cgroupfs.read(file).strip():
            continue
        value = cgroupfs.read(os.path.join(parent, name)).strip()
        if not value:
            _inherit_cpuset(parent)
            value = cgroupfs.read(os.path.join(parent, name)).strip()
        cgroupfs.write(file, value)


def _enable_above(mount: str, path: str) -> None:
    """Enable what limits need from the root down: systemd enables for its slices what it knows itself."""
    parent = os.path.dirname(mount + path)
    if (_controllers(mount) & _CONTROLLERS) - _controllers(parent):
        for above in ("", *names.ancestors(path)[:-1]):
            _enable_controllers(mount + above)
    _enable_controllers(parent)


def _controllers(directory: str) -> set[str]:
    return set(cgroupfs.read(os.path.join(directory, "cgroup.controllers")).split())


def _enable_controllers(directory: str) -> None:
    """Give the cgroups below a directory the controllers that it has itself."""
    available = _controllers(directory)
    file = os.path.join(directory, "cgroup.subtree_control")
    for name in sorted((available & _CONTROLLERS) - set(cgroupfs.read(file).split())):
        # One that cannot be had (EBUSY: processes live right here) is told of when a limit needs it.
        with contextlib.suppress(KernelError):
            cgroupfs.write(file, f"+{name}")


def _remove_below(directory: str, deadline: float) -> None:
    pause_s = 0.001
    while True:
        stuck = [each for each in descendants(directory) if not cgroupfs.remove(each)]
        if not stuck:
            return
        if time.monotonic() > deadline:
            raise KernelError("rmdir", errno.EBUSY, stuck[0])
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.1)
