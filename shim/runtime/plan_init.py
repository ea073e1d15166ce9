"""The plan of a pod's init: the first process of a PID namespace that its containers share. Pure."""

from __future__ import annotations

from shim.model.cgroup import CgroupJoin
from shim.model.sandbox import SandboxSpec
from shim.runtime.plan import Plan
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


def plan_init(spec: SandboxSpec, join: CgroupJoin, seccomp: bytes) -> Plan:
    """Return the plan; the PID namespace is pinned at ``spec.pins["pid"]``.

    A PID namespace can be pinned only once it has a first process, so that process does it, as long as it
    still is in the host's mount namespace.

    Args:
        spec: of the sandbox; its other namespaces are pinned already.
        join: cgroups of the init.
        seccomp: program of ``seccomp_filter.reaper``.
    """
    kinds = tuple(kind for kind in ("net", "ipc", "uts") if kind in spec.pins)
    stage1: list[Step] = [OpenCgroups(join.v1_tasks, join.v2_dir)]
    if kinds:
        stage1.append(OpenNamespaces(tuple((kind, spec.pins[kind]) for kind in kinds)))
        stage1.append(JoinNamespaces(kinds))
    stage1.append(Unshare(("pid",)))
    stage2 = (
        PinNamespace("pid", spec.pins["pid"]),
        Unshare(("mnt",)),
        DetachFromHost(),
        EnterEmptyRoot(),
        EnterV1Cgroups(len(join.v1_tasks)),
        ReapForEver(seccomp.hex()),
    )
    return Plan("init", tuple(stage1), stage2)
