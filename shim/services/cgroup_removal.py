"""Emptying and removing a cgroup."""

from __future__ import annotations

from shim.services.node import Node


async def remove_cgroup(node: Node, path: str) -> None:
    """Kill what runs in a cgroup, then remove it. Idempotent."""
    await node.pools.cgroups.run(_remove, node, path)


def _remove(node: Node, path: str) -> None:
    node.cgroups.kill(path)
    node.cgroups.remove(path)
