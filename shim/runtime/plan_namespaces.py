"""The plan that makes and pins a pod's namespaces, and ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shim.errors import InvalidArgument, Unimplemented
from shim.model.sandbox import SandboxSpec
from shim.runtime.plan import Plan
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

# What a program without privileges may do in a network of its own harms nobody: low ports, ping. As the CRI
# plugin of containerd does by default.
NETWORK_SYSCTLS: Final = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
# sysctl(8) names that belong to a namespace, by its kind (namespaces(7), ipc_namespaces(7)).
_BELONGS_TO: Final = {
    "net": ("net.",),
    "ipc": ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."),
    "uts": ("kernel.hostname", "kernel.domainname"),
}


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
    if "net" in kinds:
        steps += [LoopbackUp(), SendNetlink()]
    steps += [WriteSysctl(name, value) for name, value in plan_sysctls(spec).items()]
    steps += [PinNamespace(kind, spec.pins[kind]) for kind in kinds]
    if "ipc" in kinds:
        steps.append(MountShm(shm, SHM_BYTES, spec.mount_label))
    return Plan("namespaces", tuple(steps))


def plan_sysctls(spec: SandboxSpec) -> Mapping[str, str]:
    """Return what is set in the pod's namespaces, by names with dots: our defaults, then the request's.

    Raises:
        InvalidArgument: one belongs to no namespace of the pod.
    """
    wanted = dict(NETWORK_SYSCTLS) if "net" in spec.pins else {}
    for name, value in spec.config.sysctls.items():
        dotted = _dotted(name)
        if not any(
            dotted.startswith(prefixes) for kind, prefixes in _BELONGS_TO.items() if kind in spec.pins
        ):
            raise InvalidArgument(
                f"sysctl {name!r} is in no namespace that this pod has for itself: it would change the node"
            )
        wanted[dotted] = value
    return wanted


def _dotted(name: str) -> str:
    """Return a name with dots between its parts; in ``net/ipv4/conf/eth0.1`` a dot is part of a part."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))
