"""The plan that makes and pins a pod's namespaces, and ends. Pure."""

from __future__ import annotations

from typing import Final

from shim.errors import Unimplemented
from shim.model.sandbox import SandboxSpec
from shim.runtime.plan import Plan
from shim.runtime.plan_sysctls import plan_sysctls
from shim.runtime.steps import Step
from shim.runtime.steps_namespaces import (
    LoopbackUp,
    MountShm,
    PinNamespace,
    SendNetlink,
    SetHostname,
    Unshare,
    WriteSysctl,
)

SHM_BYTES: Final = 64 * 1024 * 1024


def plan_namespaces(spec: SandboxSpec, hostname: str, shm: str) -> Plan:
    """Return the plan for every namespace that the spec pins, but for the PID namespace, which needs an init.

    Args:
        spec: the sandbox.
        hostname: of the new uts namespace.
        shm: directory on which the pod's /dev/shm is mounted.

    Raises:
        InvalidArgument: a sysctl belongs to no namespace of the pod, so it would change the node.
        Unimplemented: the pod wants a user namespace.
    """
    if "user" in spec.pins:
        raise Unimplemented("cannot make a user namespace for a pod")
    kinds = tuple(kind for kind in ("net", "ipc", "uts") if kind in spec.pins)
    steps: list[Step] = [Unshare(kinds)]
    if "uts" in kinds:
        steps.append(SetHostname(hostname))
    # Before any interface is up: what it begins with follows from some of them.
    steps += [WriteSysctl(name, value) for name, value in plan_sysctls(spec).items()]
    if "net" in kinds:
        steps += [LoopbackUp(), SendNetlink()]
    steps += [PinNamespace(kind, spec.pins[kind]) for kind in kinds]
    if "ipc" in kinds:
        steps.append(MountShm(shm, SHM_BYTES, spec.mount_label))
    return Plan("namespaces", tuple(steps))
