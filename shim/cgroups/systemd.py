"""The ``systemd`` driver: the cgroup of a container or pod init is a transient scope of systemd's.

A scope begins with a process and ends with its last. So that a container can be born inside its cgroup, with
its limits in force, a placeholder opens the scope: a program that waits for the end of a pipe. It leaves when
the container's process is there (``settle``), and by itself when the daemon dies.

systemd hands what is below a scope to us (``Delegate``): execs have their cgroups there as with the other
driver. Limits are properties of the scope, so that no daemon-reload undoes them, and then written by us too,
which covers what systemd has no property for. The program about devices is ours: systemd leaves it alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shim.cgroups import names, oom, properties
from shim.cgroups.bus import Systemd
from shim.cgroups.driver import CgroupfsDriver, own
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from shim.model.cgroup import DeviceRule, Place
from shim.model.resources import Resources

log = logging.getLogger(__name__)

_RUNS: Final = "/run/systemd/system"
# Reads until the daemon closes the pipe; every Linux has it.
_PLACEHOLDER: Final = "/bin/cat"


def is_init() -> bool:
    """Tell whether systemd is the first process (sd_booted(3))."""
    return os.path.isdir(_RUNS)


def lack(hierarchy: Hierarchy) -> str:
    """Return why systemd cannot make the cgroups of this node; empty if it can. Blocking."""
    if not is_init():
        return "systemd is not the first process here"
    if hierarchy.v1:
        return "this node has cgroups of version 1, on which systemd would undo device rules"
    return silence()


def silence() -> str:
    """Return why systemd does not answer; empty if it does. Blocking."""
    manager = Systemd()
    try:
        manager.version()
    except Unavailable as error:
        return str(error)
    finally:
        manager.close()
    return ""


@dataclass(frozen=True, slots=True)
class _Placeholder:
    pid: int
    pipe: int

    def end(self) -> None:
        """End it and reap it."""
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class SystemdDriver(CgroupfsDriver):
    """Has systemd make and remove cgroups. Blocking; threads as for ``CgroupfsDriver``.

    Args:
        hierarchy: of version 2.
        own_parent: names the slice of pods that come without a parent.
    """

    driver = "systemd"

    def __init__(self, hierarchy: Hierarchy, own_parent: str) -> None:
        super().__init__(hierarchy, names.own_slice(own_parent))
        self._systemd = Systemd()
        self._known_version: int | None = None
        self._placeholders: dict[str, _Placeholder] = {}

    def close(self) -> None:
        """Leave systemd; scopes stay."""
        self._systemd.close()
        super().close()

    def parent(self, asked: str) -> str:
        """Return the cgroup of the slice that a request's cgroup_parent names. Pure.

        Raises:
            InvalidArgument: it names none.
        """
        return names.slice_path(asked) if asked else self._own_parent

    def path(self, parent: str, id_: str) -> str:
        """Return the cgroup of a container or pod init. Pure."""
        return names.scope_of(parent, id_)

    def create(self, path: str, resources: Resources, devices: Sequence[DeviceRule] = ()) -> Place:
        """Start a scope with its limits, kept by a placeholder until ``settle``.

        Raises:
            InvalidArgument: a limit makes no sense. KernelError: the kernel refuses.
            FailedPrecondition: the node lacks what a limit needs, or the pod is of another driver.
            Unavailable: systemd does not do it.
        """
        path = own(path)
        slice_, scope = posixpath.split(path)
        try:
            names.slice_path(slice_)
        except InvalidArgument:
            raise FailedPrecondition(
                f"cgroup {slice_!r} is no slice of systemd: its pod was made with the driver cgroupfs; "
                "remove the pod and have it made again"
            ) from None
        writes = self._plan(resources, None)
        self.settle(path)
        self._placeholders[path] = placeholder = _start_placeholder()
        try:
            unit, version = posixpath.basename(slice_), self._version()
            planned = properties.plan_scope(unit, "a process of cri-shim", placeholder.pid, writes, version)
            self._start(scope, planned)
            self._check_place(path)
            return super().create(path, resources, devices)
        except BaseException:
            with contextlib.suppress(Unavailable):
                self.remove(path)
            raise

    def settle(self, path: str) -> None:
        """Let a scope live by its process alone: that is in it, or will never come. Idempotent."""
        placeholder = self._placeholders.pop(path, None)
        if placeholder is not None:
            placeholder.end()

    def oom_watch(self, path: str) -> dict[str, int]:
        """Return descriptors that tell of the OOM killer, also once systemd has removed the scope."""
        return super().oom_watch(path) | oom.watch_slice(self._hierarchy, own(path))

    def _tell(self, path: str, resources: Resources) -> None:
        """Tell systemd, which would undo the new limits at the next daemon-reload.

        Raises:
            Unavailable: it does not answer.
        """
        limits = properties.plan_limits(self._plan(resources, None))
        if limits and _is_scope(path):
            with contextlib.suppress(NotFound):  # the container has just ended
                self._systemd.set_properties(posixpath.basename(path), limits)

    def remove(self, path: str) -> None:
        """Remove a scope with the cgroups below it. Idempotent; a slice stays, as systemd's slices do."""
        path = own(path)
        self.settle(path)
        if _is_scope(path) and os.path.isdir(self._hierarchy.unified + path):
            self._systemd.stop(posixpath.basename(path))
        super().remove(path)

    def _version(self) -> int:
        if self._known_version is None:
            self._known_version = self._systemd.version()
        return self._known_version

    def _check_place(self, path: str) -> None:
        if not os.path.isdir(self._hierarchy.unified + path):
            raise FailedPrecondition(
                f"systemd has started the scope of {path!r}, but there is no such cgroup below "
                f"{self._hierarchy.unified}: that must be mounted from systemd's own root"
            )

    def _start(self, scope: str, planned: Sequence[properties.Property]) -> None:
        try:
            self._systemd.start_scope(scope, planned)
        except AlreadyExists:
            # One of that name has failed or is ending: a container starts but once, so it is not this one's.
            log.warning("%s is there already, and replaced", scope)
            self._systemd.stop(scope)
            self._systemd.start_scope(scope, planned)


def _is_scope(path: str) -> bool:
    return path.endswith(".scope")


def _start_placeholder() -> _Placeholder:
    """Start a program that ends when the pipe's other end is closed, by us or by our death."""
    reader, writer = os.pipe()  # neither end is inherited by execve
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
        pid = os.posix_spawn(_PLACEHOLDER, ["cri-shim: opens a scope"], {}, file_actions=actions, setsid=True)
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
        os.close(null)
    return _Placeholder(pid, writer)
