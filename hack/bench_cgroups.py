"""The cgroup of a pod, which a kubelet makes before it asks for the pod, in every hierarchy."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PARENT = "/cri-bench"
_CPUSET = ("cpuset.cpus", "cpuset.mems")


def _mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split(" - ")[1].split()[0] in ("cgroup", "cgroup2")]


def make(uid: str) -> str:
    """Make the cgroup of a pod; return it as a request's cgroup_parent."""
    path = f"{_PARENT}/pod{uid}"
    for mount in _mounts():
        for directory in (mount + _PARENT, mount + path):
            _enable(os.path.dirname(directory))
            os.makedirs(directory, exist_ok=True)
            _inherit_cpuset(directory)
    return path


def remove(uid: str) -> None:
    """Remove it again, as far as nothing is left in it."""
    for mount in _mounts():
        for path in (f"{_PARENT}/pod{uid}", _PARENT):
            with contextlib.suppress(OSError):
                os.rmdir(mount + path)


def _enable(directory: str) -> None:
    controllers = Path(directory, "cgroup.controllers")
    if controllers.exists():
        for name in controllers.read_text().split():
            with contextlib.suppress(OSError):
                Path(directory, "cgroup.subtree_control").write_text(f"+{name}")


def _inherit_cpuset(directory: str) -> None:
    for name in _CPUSET:
        file = Path(directory, name)
        if Path(directory, "cgroup.controllers").exists() or not file.exists() or file.read_text().strip():
            continue
        file.write_text(Path(os.path.dirname(directory), name).read_text())
