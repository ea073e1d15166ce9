"""Taking a sandbox apart: named steps, each idempotent, each within a time of its own.

What fails stays named in the status (``pending``) and is tried again in the background, with growing pauses;
the sandbox is listed NOTREADY until then. The same steps end a stop, undo a failed start, and clean up
after a crash: the spec names everything before it is made, so nothing needs to be remembered besides.

Every function here wants the sandbox's lock held, unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from shim.model.container import ContainerState
from shim.model.sandbox import SandboxSpec, SandboxStatus
from shim.services.containers.stop import stop_container
from shim.services.node import Node
from shim.services.sandboxes import namespace_process
from shim.stages import stage

log = logging.getLogger(__name__)

Step = Callable[[Node, SandboxSpec], Awaitable[None]]

_STEP_TIMEOUT_S: Final = 30.0
HOST_NETWORK: Final = "host"


async def _stop_containers(node: Node, spec: SandboxSpec) -> None:
    running = (ContainerState.RUNNING, ContainerState.UNKNOWN)
    views = [view for view in node.records.containers_of(spec.id) if view.state in running]
    await asyncio.gather(*(stop_container(node, view.spec.id, 0) for view in views))


async def _tear_down_network(node: Node, spec: SandboxSpec) -> None:
    if spec.network != HOST_NETWORK:
        await node.networks.get(spec.network).teardown(spec.id, spec.pins.get("net", ""))


# In this order: processes first, so that nothing uses the network; the network while its namespace is there.
STEPS: Final[tuple[tuple[str, Step], ...]] = (
    ("containers", _stop_containers),
    ("init", namespace_process.stop_init),
    ("network", _tear_down_network),
    ("namespaces", namespace_process.unpin),
)


async def tear_down(node: Node, spec: SandboxSpec) -> dict[str, Exception]:
    """Run the steps that are pending; mark the sandbox stopped first.

    Returns:
        The errors of steps that failed, by name; empty when all is done. They are being tried again.
    """
    view = node.records.find_sandbox(spec.id)
    if view is None or (view.status.stopped_at_ns and not view.status.pending):
        return {}
    status = await node.records.update_sandbox(spec.id, lambda status: mark_stopped(status, node.now_ns()))
    node.sockets.drop(spec.id)
    failed: dict[str, Exception] = {}
    for name, step in STEPS:
        if status is None or name not in status.pending:
            continue
        if name == "namespaces" and "network" in failed:
            failed[name] = failed["network"]  # the plugin may need the namespace for its next try
            continue
        try:
            with stage(name):
                async with asyncio.timeout(_STEP_TIMEOUT_S):
                    await step(node, spec)
        except Exception as error:
            log.warning(
                "sandbox %s: cannot tear down %s: %s", spec.id, name, str(error) or type(error).__name__
            )
            failed[name] = error
    await node.records.update_sandbox(
        spec.id, lambda status: dataclasses.replace(status, pending=tuple(failed))
    )
    if failed:
        node.background.retry(f"teardown of sandbox {spec.id}", lambda: try_again(node, spec.id))
    return failed


async def let_go_of_network(node: Node, spec: SandboxSpec) -> bool:
    """Leave a network that cannot be taken down now to those who made it, so that the sandbox can go.

    Return whether that is done: it is recorded there, and tried again whatever becomes of the sandbox.
    """
    view = node.records.find_sandbox(spec.id)
    if view is None or "network" not in view.status.pending:
        return False
    if not node.networks.hand_over(spec.network, spec.id):
        return False
    pending = tuple(name for name in view.status.pending if name != "network")
    await node.records.update_sandbox(spec.id, lambda status: dataclasses.replace(status, pending=pending))
    return True


async def discard(node: Node, spec: SandboxSpec) -> None:
    """Take apart a sandbox that never became ready, and forget it; while that fails it is listed NOTREADY."""
    failed = await tear_down(node, spec)
    if failed and await let_go_of_network(node, spec):
        failed = await tear_down(node, spec)
    if not failed:
        await forget(node, spec)


async def forget(node: Node, spec: SandboxSpec) -> None:
    """Remove the record of a sandbox that is taken apart, with its directory."""
    await node.records.remove_sandbox(spec.id)


async def try_again(node: Node, id_: str) -> bool:
    """Run what is pending; return whether nothing is left to try. Takes the sandbox's lock."""
    async with node.locks.hold(id_):
        view = node.records.find_sandbox(id_)
        if view is None:
            return True
        if not view.status.ready_at_ns:
            await discard(node, view.spec)
            return node.records.find_sandbox(id_) is None
        return not await tear_down(node, view.spec)


def mark_stopped(status: SandboxStatus, now_ns: int) -> SandboxStatus:
    """Return the status of a sandbox that is not ready any more, with every step still to be done."""
    if status.stopped_at_ns:
        return status
    return dataclasses.replace(status, stopped_at_ns=now_ns, pending=tuple(name for name, _ in STEPS))
