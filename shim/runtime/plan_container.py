"""The plan of a container: from what was asked to the steps of both stages. Pure.

Stage 1 opens what host paths name, joins the pod's namespaces and assembles the root; stage 2 is the process
that the container sees. What needs its PID or cgroup namespace is mounted there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shim.errors import InvalidArgument, Unimplemented
from shim.kernel import mount
from shim.model.cgroup import Place
from shim.model.container import ContainerSpec, ProcessRef
from shim.model.mount import Volume
from shim.model.sandbox import SandboxSpec
from shim.model.security import NamespaceMode
from shim.runtime import default_files as defaults
from shim.runtime import plan_hooks
from shim.runtime.plan import Plan
from shim.runtime.plan_mount_label import label_mounts
from shim.runtime.plan_process import Limits, plan_label_files, plan_program, plan_surroundings
from shim.runtime.privileges import Privileges
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import (
    DetachFromHost,
    MakeDevices,
    MountNew,
    MountOverlay,
    OpenTerminal,
    PivotRoot,
    ProtectPaths,
    RootReadonly,
)
from shim.runtime.steps_namespaces import (
    EnterV1Cgroups,
    JoinNamespaces,
    JoinProcess,
    OpenCgroups,
    OpenNamespaces,
    Unshare,
)
from shim.runtime.steps_process import Streams
from shim.runtime.steps_volumes import AttachVolume, OpenVolume, RestrictVolume, ShowCgroups

_CGROUPS = "/sys/fs/cgroup"
_ATTRIBUTES = {
    "nosuid": mount.MOUNT_ATTR_NOSUID,
    "nodev": mount.MOUNT_ATTR_NODEV,
    "noexec": mount.MOUNT_ATTR_NOEXEC,
}


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """All that the plan of a container is made from.

    Attributes:
        pod_files: container path to the host path of a file of the pod (hosts, hostname, resolv.conf).
        shm: host directory that is the pod's /dev/shm.
        devices: tuples as of MakeDevices, besides the default ones.
        mount_label: of SELinux; empty for none.
        target: the process whose PID namespace is joined (mode TARGET).
    """

    spec: ContainerSpec
    sandbox: SandboxSpec
    place: Place
    privileges: Privileges
    limits: Limits
    pod_files: Mapping[str, str]
    shm: str
    devices: tuple[defaults.DeviceNode, ...] = ()
    target: ProcessRef | None = None
    mount_label: str = ""


def plan_container(c: ContainerPlan) -> Plan:
    """Return the plan.

    Raises:
        InvalidArgument: a volume lies where none can be.
        Unimplemented: hooks of a device cannot be run in this pod.
    """
    _refuse(c)
    volumes = plan_volumes(c)
    replaced = frozenset(_normal(volume.container_path) for volume in volumes)
    early = [(f"volume {n}", v) for n, v in enumerate(volumes) if not _is_late(v.container_path)]
    late = [(f"volume {n}", v) for n, v in enumerate(volumes) if _is_late(v.container_path)]
    keep_proc, open_labels = plan_label_files(c.privileges)
    stage1: list[Step] = [
        *keep_proc,
        OpenCgroups(c.place.join.v1_tasks, c.place.join.v2_dir),
        *_open_volumes(enumerate(volumes)),
        *plan_hooks.before(c.spec),
        *_namespaces(c),
        DetachFromHost(),
        MountOverlay(c.spec.rootfs.lowers, c.spec.rootfs.upper, c.spec.rootfs.work),
        *_default_mounts(c, replaced),
        *(AttachVolume(name, volume.container_path) for name, volume in early),
    ]
    if c.spec.config.tty:
        stage1.append(OpenTerminal(c.spec.user.uid, 0, 0))
    stage1 = [*label_mounts(stage1, c.mount_label), *_hooks(c), PivotRoot()]
    stage2: list[Step] = [
        *open_labels,
        *_late_mounts(c, replaced),
        *(AttachVolume(name, volume.container_path) for name, volume in late),
        *_protection(c),
        *plan_surroundings(c.spec, c.limits),
    ]
    if c.spec.config.security.readonly_rootfs:
        stage2.append(RootReadonly())
    stage2 += [
        Streams(c.spec.user.uid, c.spec.user.gid),
        EnterV1Cgroups(len(c.place.join.v1_tasks)),
        *plan_program(c.spec, c.spec.argv, c.privileges),
    ]
    return Plan("container", tuple(stage1), tuple(stage2))


def plan_volumes(c: ContainerPlan) -> list[Volume]:
    """Return what is bound: the pod's files unless a volume is in their place; outer paths come first."""
    security = c.spec.config.security
    asked = _asked_volumes(c)
    theirs = {_normal(volume.container_path) for volume in asked}
    ours = [
        Volume(path, source, readonly=security.readonly_rootfs)
        for path, source in c.pod_files.items()
        if path not in theirs
    ]
    if "/dev/shm" not in theirs:  # noqa: S108 - a mount point, not a place for a file
        ours.append(Volume("/dev/shm", c.shm))  # noqa: S108
    return sorted([*ours, *asked], key=lambda v: _normal(v.container_path).count("/"))


def _asked_volumes(c: ContainerPlan) -> list[Volume]:
    """Return those of the request and those of CDI devices, which take the place of others."""
    edited = {_normal(volume.container_path): volume for volume in c.spec.edits.volumes}
    asked = [volume for volume in c.spec.config.volumes if _normal(volume.container_path) not in edited]
    return [*asked, *edited.values()]


def shared_kinds(c: ContainerPlan) -> tuple[str, ...]:
    """Return the kinds of the pod's namespaces that the container joins."""
    kinds = [kind for kind in ("net", "ipc", "uts") if kind in c.sandbox.pins]
    if pid_mode(c.spec, c.sandbox) is NamespaceMode.POD and "pid" in c.sandbox.pins:
        kinds.append("pid")
    return tuple(kinds)


def pid_mode(spec: ContainerSpec, sandbox: SandboxSpec) -> NamespaceMode:
    """Return whose PID namespace the container is in.

    A container that shares its pod's is where the pod is: the node's, or, in a pod without one, its own.
    """
    asked = spec.config.security.namespaces
    pods = sandbox.config.security.namespaces.pid
    mode = pods if asked is None else asked.pid
    return pods if mode is NamespaceMode.POD else mode


def _namespaces(c: ContainerPlan) -> Iterable[Step]:
    """Enter the namespaces; the one of PIDs waits for hooks, which would be born in it."""
    shared = shared_kinds(c)
    mode = pid_mode(c.spec, c.sandbox)
    early = shared
    if shared:
        yield OpenNamespaces(tuple((kind, c.sandbox.pins[kind]) for kind in shared))
    if c.spec.edits.hooks:
        early = tuple(kind for kind in shared if kind != "pid")
    elif mode is NamespaceMode.TARGET:
        yield _join_target(c)
    if early:
        yield JoinNamespaces(early)
    own_pids = mode is NamespaceMode.CONTAINER and not c.spec.edits.hooks
    yield Unshare(("mnt", "pid") if own_pids else ("mnt",))


def _hooks(c: ContainerPlan) -> Iterable[Step]:
    """Run the hooks, then do what waited for them."""
    if not c.spec.edits.hooks:
        return
    yield from plan_hooks.run(c.spec, c.sandbox.config.hostname)
    mode = pid_mode(c.spec, c.sandbox)
    if mode is NamespaceMode.TARGET:
        yield _join_target(c)
    elif mode is NamespaceMode.CONTAINER:
        yield Unshare(("pid",))
    elif "pid" in shared_kinds(c):
        yield JoinNamespaces(("pid",))


def _join_target(c: ContainerPlan) -> Step:
    if c.target is None:
        raise InvalidArgument("pid namespace mode TARGET needs the container that it names to run")
    return JoinProcess(c.target.pid, c.target.start_time, ("pid",))


def _open_volumes(volumes: Iterable[tuple[int, Volume]]) -> Iterable[Step]:
    for number, volume in volumes:
        yield OpenVolume(
            f"volume {number}",
            volume.host_path,
            volume.readonly,
            volume.recursive_read_only,
            int(volume.propagation),
        )
        attributes = sum(_ATTRIBUTES.get(option, 0) for option in volume.mount_options)
        if attributes:
            yield RestrictVolume(f"volume {number}", attributes)


def _default_mounts(c: ContainerPlan, replaced: frozenset[str]) -> Iterable[Step]:
    privileged = c.spec.config.security.privileged
    for each in defaults.early_mounts(readonly_sys=not privileged):
        if each.target not in replaced:
            yield each
        if each.target == "/dev" and "/dev" not in replaced:
            yield MakeDevices((*defaults.DEVICES, *c.devices), defaults.LINKS)
    if c.place.join.v1_tasks and not replaced & {"/sys", _CGROUPS}:
        yield from _v1_cgroups(c, 0 if privileged else mount.MOUNT_ATTR_RDONLY)


def _v1_cgroups(c: ContainerPlan, readonly: int) -> Iterable[Step]:
    """Show each hierarchy from the container's own cgroup down: version 1 has no better way."""
    binds = []
    for tasks in c.place.join.v1_tasks:
        directory = posixpath.dirname(tasks)
        binds.append((directory, posixpath.basename(directory.removesuffix(c.place.path))))
    yield ShowCgroups(_CGROUPS, tuple(binds), defaults.PLAIN | readonly)


def _late_mounts(c: ContainerPlan, replaced: frozenset[str]) -> Iterable[Step]:
    if "/proc" not in replaced:
        yield MountNew("proc", "proc", "/proc", defaults.PLAIN, ())
    if not c.place.join.v1_tasks and not replaced & {"/sys", _CGROUPS}:
        privileged = c.spec.config.security.privileged
        if not privileged:  # such a one looks after the node, as elsewhere: it sees the whole tree
            yield Unshare(("cgroup",))
        readonly = 0 if privileged else mount.MOUNT_ATTR_RDONLY
        yield MountNew("cgroup2", "cgroup", _CGROUPS, defaults.PLAIN | readonly, ())


def _protection(c: ContainerPlan) -> Iterable[Step]:
    security = c.spec.config.security
    if security.privileged:
        return
    masked, readonly = security.masked_paths, security.readonly_paths
    if not masked and not readonly:
        masked, readonly = defaults.MASKED_PATHS, defaults.READONLY_PATHS
    yield ProtectPaths(masked, readonly)


def _is_late(path: str) -> bool:
    """Tell whether a volume lies on what stage 2 mounts."""
    path = _normal(path)
    return path.startswith(("/proc/", _CGROUPS + "/")) or path == "/proc"


def _normal(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _refuse(c: ContainerPlan) -> None:
    if c.spec.edits.hooks and "user" in c.sandbox.pins:
        raise Unimplemented("hooks of CDI devices cannot be run for a pod with a user namespace")
    volumes = _asked_volumes(c)
    if c.spec.config.tty and "/dev/pts" in {_normal(volume.container_path) for volume in volumes}:
        raise InvalidArgument("a container with a terminal cannot have a volume at /dev/pts")
    for volume in volumes:
        if _normal(volume.container_path) == "/proc" and volume.host_path != "/proc":
            raise InvalidArgument(
                "a volume at /proc must be the node's /proc: no other is a proc file system"
            )
