"""The plan of a pod's init: the first process of a PID namespace that its containers share. Pure."""

from __future__ import annotations

from shim.model.cgroup import CgroupJoin
from shim.model.sandbox import SandboxSpec
from shim.model.security import Confinement
from shim.runtime.plan import Plan
from shim.runtime.plan_process import plan_become, plan_label_files
from shim.runtime.privileges import plan_labels
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import DetachFromHost
from shim.runtime.steps_namespaces import (
    EnterV1Cgroups,
    JoinNamespaces,
    OpenCgroups,
    OpenNamespaces,
    PinNamespace,
    Unshare,
)
from shim.runtime.steps_reaper import EnterEmptyRoot, ReapForEver
from shim.runtime.steps_users import BecomeRoot, EnterUserNamespace


def plan_init(spec: SandboxSpec, join: CgroupJoin, seccomp: bytes) -> Plan:
    """Return the plan; the PID namespace is pinned at ``spec.pins["pid"]``.

    A PID namespace can be pinned only once it has a first process, so that process does it, as long as it
    still is in the host's mount namespace. With a user namespace it may not: the caller pins it.

    Args:
        spec: of the sandbox; its other namespaces are pinned already.
        join: cgroups of the init.
        seccomp: program of ``seccomp_filter.reaper``.
    """
    kinds = tuple(kind for kind in ("net", "ipc", "uts") if kind in spec.pins)
    inside = "user" in spec.pins
    opened = ("user", *kinds) if inside else kinds
    labels = plan_labels(Confinement(process_label=spec.process_label))
    keep_proc, open_labels = plan_label_files(labels)
    stage1: list[Step] = [*keep_proc, OpenCgroups(join.v1_tasks, join.v2_dir)]
    if opened:
        stage1.append(OpenNamespaces(tuple((kind, spec.pins[kind]) for kind in opened)))
        stage1.append(JoinNamespaces(kinds))
    if inside:
        stage1.append(EnterUserNamespace())
    stage1.append(Unshare(("pid",)))
    stage2 = (
        *open_labels,
        BecomeRoot() if inside else PinNamespace("pid", spec.pins["pid"]),
        Unshare(("mnt",)),
        DetachFromHost(),
        EnterEmptyRoot(spec.mount_label),
        EnterV1Cgroups(len(join.v1_tasks)),
        *plan_become(labels),
        ReapForEver(seccomp.hex()),
    )
    return Plan("init", tuple(stage1), stage2)
