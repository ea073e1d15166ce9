"""Descriptors that tell when the OOM killer strikes in a cgroup.

Version 2: ``memory.events`` polls as exceptional (POLLPRI) at each change. Version 1: an eventfd becomes
readable, and ``memory.oom_control`` holds the count. Both must be opened while the cgroup lives: its files
cannot be opened any more when its last process has been reaped and it was removed.
"""

from __future__ import annotations

import os
import posixpath

from shim.cgroups.hierarchy import Hierarchy
from shim.errors import KernelError
from shim.kernel import cgroupfs


def watch(h: Hierarchy, path: str) -> dict[str, int]:
    """Return the descriptors by the names that the supervisor knows them by; the caller closes them.

    ``memory_events`` on version 2, ``oom_eventfd`` and ``oom_control`` on version 1; nothing where no
    memory controller is, or the kubelet has not enabled it for the pod.

    Raises:
        KernelError: the cgroup is gone.
    """
    directory = h.directory("memory", path)
    if directory is None:
        return {}
    if not h.v1:
        events = os.path.join(directory, "memory.events")
        if os.path.isdir(directory) and not os.path.exists(events):
            return {}
        return {"memory_events": _open(events)}
    control = _open(os.path.join(directory, "memory.oom_control"))
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        cgroupfs.write(os.path.join(directory, "cgroup.event_control"), f"{event} {control}")
    except BaseException:
        os.close(event)
        os.close(control)
        raise
    return {"oom_eventfd": event, "oom_control": control}


def watch_slice(h: Hierarchy, path: str) -> dict[str, int]:
    """Return ``slice_events``: a descriptor of the count of a scope's slice; the caller closes it.

    Nothing where that counts no memory.
    """
    events = os.path.join(h.unified + posixpath.dirname(path), "memory.events")
    return {"slice_events": _open(events)} if os.path.exists(events) else {}


def parse_kills(text: str) -> int:
    """Return how often the OOM killer struck, from ``memory.events`` or ``memory.oom_control``. Pure."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from error
