"""The processes behind a pod's namespaces: one that makes and pins them and ends, and one that stays.

Only a pod whose containers share their PID namespace keeps a process, its init: a PID namespace lives only
as long as its first process. It is in a cgroup of its own beside the containers', named by the sandbox's
id.
"""

from __future__ import annotations

import asyncio

from shim.model.resources import Resources
from shim.model.sandbox import SandboxSpec
from shim.services.cgroup_removal import remove_cgroup
from shim.services.node import Node
from shim.services.sandboxes import namespaces


def has_init(spec: SandboxSpec) -> bool:
    """Tell whether the containers share a PID namespace, which needs an init."""
    return "pid" in spec.pins


async def make(node: Node, spec: SandboxSpec) -> dict[str, int]:
    """Make and pin every namespace that the spec names, and start the init where there is to be one.

    Returns:
        Sockets that were opened inside, by name (``netlink``); they are the caller's.
    """
    fds = await node.launcher.namespaces(spec) if spec.pins.keys() - {"pid"} else {}
    if has_init(spec):
        # No device at all: a container of the pod that has SYS_PTRACE could have the init open it.
        place = await node.pools.cgroups.run(node.cgroups.create, _cgroup(node, spec), Resources(), ())
        pid = await node.launcher.init(spec, place)
        if "user" in spec.pins:
            await node.pools.files.run(namespaces.pin_pid, spec, pid)
        node.inits.add(spec.id)
    return fds


async def stop_init(node: Node, spec: SandboxSpec) -> None:
    """Kill the init, wait for its end, and remove its cgroup. Idempotent."""
    if not has_init(spec):
        return
    await node.supervisor.kill(spec.id)
    if spec.id in node.inits:
        await asyncio.shield(node.waiters.expect(spec.id))
    await remove_cgroup(node, _cgroup(node, spec))


async def unpin(node: Node, spec: SandboxSpec) -> None:
    """Unpin the namespaces, and unmount what the pod shared. Idempotent."""
    await node.pools.files.run(namespaces.remove_places, node.layout, spec.id)


def _cgroup(node: Node, spec: SandboxSpec) -> str:
    return node.cgroups.path(spec.cgroup_parent, spec.id)
