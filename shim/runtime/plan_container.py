"""The plan of a container: from what was asked to the steps of both stages. Pure.

Stage 1 opens what host paths name, joins the pod's namespaces and assembles the root; stage 2 is the process
that the container sees. What needs its PID or cgroup namespace is mounted there.
"""

from __future__ import annotations

from collections.abc import Iterable

from shim.model.security import NamespaceMode
from shim.runtime import container_parts as parts
from shim.runtime import default_files as defaults
from shim.runtime import plan_hooks, plan_volumes
from shim.runtime.container_parts import ContainerPlan
from shim.runtime.plan import Plan
from shim.runtime.plan_mount_label import label_mounts
from shim.runtime.plan_process import plan_label_files, plan_oom_score, plan_program, plan_surroundings
from shim.runtime.plan_userns import plan_container_in_userns
from shim.runtime.plan_volumes import CGROUPS
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import (
    DetachFromHost,
    MakeDevices,
    MountNew,
    MountOverlay,
    OpenTerminal,
    PivotRoot,
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


def plan_container(c: ContainerPlan) -> Plan:
    """Return the plan.

    Raises:
        InvalidArgument: a volume lies where none can be.
        Unimplemented: hooks of a device cannot be run in this pod.
    """
    parts.refuse(c.spec, c.sandbox)
    if c.spec.userns is not None:
        return plan_container_in_userns(c, c.spec.userns)
    volumes = plan_volumes.plan_volumes(c.spec, c.pod_files, c.shm)
    replaced = frozenset(each.target for each in volumes)
    keep_proc, open_labels = plan_label_files(c.privileges.labels)
    stage1: list[Step] = [
        plan_oom_score(c.spec),
        *keep_proc,
        OpenCgroups(c.place.join.v1_tasks, c.place.join.v2_dir),
        *plan_volumes.open_steps(volumes),
        *plan_hooks.before(c.spec),
        *_namespaces(c),
        DetachFromHost(),
        MountOverlay(c.spec.rootfs.lowers, c.spec.rootfs.upper, c.spec.rootfs.work),
        *plan_volumes.image_steps(volumes),
        *plan_volumes.attach_among(_default_mounts(c, replaced), volumes),
    ]
    if c.spec.config.tty:
        stage1.append(OpenTerminal(c.spec.user.uid, 0, 0))
    stage1 = [*label_mounts(stage1, c.mount_label), *_hooks(c), PivotRoot()]
    stage2: list[Step] = [*open_labels]
    if "/proc" not in replaced:
        stage2.append(MountNew("proc", "proc", "/proc", defaults.PLAIN, ()))
    stage2 += [
        *parts.v2_cgroups(c, replaced),
        *plan_volumes.attach_late(volumes),
        *parts.protection(c),
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


def _namespaces(c: ContainerPlan) -> Iterable[Step]:
    """Enter the namespaces; the one of PIDs waits for hooks, which would be born in it."""
    shared = parts.shared_kinds(c)
    early, target = shared, parts.target_of(c)
    if shared:
        yield OpenNamespaces(tuple((kind, c.sandbox.pins[kind]) for kind in shared))
    if c.spec.edits.hooks:
        early = tuple(kind for kind in shared if kind != "pid")
    elif target is not None:
        yield JoinProcess(target.pid, target.start_time, ("pid",))
    if early:
        yield JoinNamespaces(early)
    own_pids = parts.pid_mode(c.spec, c.sandbox) is NamespaceMode.CONTAINER and not c.spec.edits.hooks
    yield Unshare(("mnt", "pid") if own_pids else ("mnt",))


def _hooks(c: ContainerPlan) -> Iterable[Step]:
    """Run the hooks, then do what waited for them."""
    if not c.spec.edits.hooks:
        return
    yield from plan_hooks.run(c.spec, c.sandbox.config.hostname)
    target = parts.target_of(c)
    if target is not None:
        yield JoinProcess(target.pid, target.start_time, ("pid",))
    elif parts.pid_mode(c.spec, c.sandbox) is NamespaceMode.CONTAINER:
        yield Unshare(("pid",))
    elif "pid" in parts.shared_kinds(c):
        yield JoinNamespaces(("pid",))


def _default_mounts(c: ContainerPlan, replaced: frozenset[str]) -> Iterable[tuple[str, Iterable[Step]]]:
    for each in parts.early_mounts(c, replaced):
        devices = MakeDevices((*defaults.DEVICES, *c.devices), defaults.LINKS)
        yield each.target, (each, devices) if each.target == "/dev" else (each,)
    yield CGROUPS, parts.v1_cgroups(c, replaced)
