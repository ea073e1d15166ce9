"""Emptying and removing a cgroup."""

from __future__ import annotations

from shim.services.node import Node


async def remove_cgroup(node: Node, path: str) -> None:
    """Kill what runs in a cgroup, then remove it. Idempotent."""
    await node.pools.cgroups.run(_remove, node, path)


def remove_exec_cgroup_later(node: Node, cgroup: str, number: int) -> None:
    """Remove the cgroup of an exec in the background.

    Children in the background live on in it: then it is removed when they are gone.
    """
    node.background.start(f"removal of cgroup exec {number} of {cgroup}", _remove_exec(node, cgroup, number))


async def _remove_exec(node: Node, cgroup: str, number: int) -> None:
    async def gone() -> bool:
        return await node.pools.cgroups.run(node.cgroups.remove_exec, cgroup, number)

    if not await gone():
        node.background.retry(f"removal of cgroup exec {number} of {cgroup}", gone)


def _remove(node: Node, path: str) -> None:
    node.cgroups.kill(path)
    node.cgroups.remove(path)
