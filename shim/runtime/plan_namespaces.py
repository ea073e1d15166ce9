"""The plan that makes and pins a pod's namespaces, and ends. Pure."""

from __future__ import annotations

from typing import Final

from shim.model.sandbox import SandboxSpec
from shim.runtime.plan import Plan
from shim.runtime.plan_sysctls import is_ipc, is_optional, plan_sysctls
from shim.runtime.plan_volumes import to_id_map
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
from shim.runtime.steps_users import MakeUserNamespace, PinUserNamespace, TryIdMaps

SHM_BYTES: Final = 64 * 1024 * 1024
_PROBE_ID: Final = 65536


def plan_namespaces(spec: SandboxSpec, hostname: str, shm: str) -> Plan:
    """Return the plan for every namespace that the spec pins, but for the PID namespace, which needs an init.

    Args:
        spec: the sandbox.
        hostname: of the new uts namespace.
        shm: directory on which the pod's /dev/shm is mounted.

    Raises:
        InvalidArgument: a sysctl belongs to no namespace of the pod, so it would change the node.
    """
    kinds = tuple(kind for kind in ("net", "ipc", "uts") if kind in spec.pins)
    userns = spec.userns
    root = userns.outside(0, 0) if userns is not None else (0, 0)
    steps: list[Step] = [_make(spec, kinds)]
    if "uts" in kinds:
        steps.append(SetHostname(hostname))
    # Before any interface is up: what it begins with follows from some of them.
    for name, value in plan_sysctls(spec).items():
        steps.append(WriteSysctl(name, value, root[0] if is_ipc(name) else 0, is_optional(name, spec)))
    if "net" in kinds:
        steps += [LoopbackUp(), SendNetlink()]
    if "user" in spec.pins:
        steps.append(PinUserNamespace(spec.pins["user"]))
    steps += [PinNamespace(kind, spec.pins[kind]) for kind in kinds]
    if "ipc" in kinds:
        steps.append(MountShm(shm, SHM_BYTES, spec.mount_label, root))
    return Plan("namespaces", tuple(steps))


def _make(spec: SandboxSpec, kinds: tuple[str, ...]) -> Step:
    userns = spec.userns
    if userns is None:
        return Unshare(kinds)
    return MakeUserNamespace(to_id_map(userns.uids), to_id_map(userns.gids), kinds)


def plan_probe(directory: str) -> Plan:
    """Return the plan that fails where a pod could have no user namespace.

    Args:
        directory: of the file system that layers lie on.
    """
    ids = ((0, _PROBE_ID, _PROBE_ID),)
    return Plan("namespaces", (MakeUserNamespace(ids, ids, ("net", "ipc", "uts")), TryIdMaps(directory)))
