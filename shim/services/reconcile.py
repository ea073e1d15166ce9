"""Starting on a node where things are already: look, decide (`recovery`), carry out.

Runs before the socket answers, so no verb is in the way. Nothing here stops the daemon from starting: what cannot
be done now is logged and, where it belongs to a sandbox, tried again in the background.
"""

from __future__ import annotations

import dataclasses
import logging

from shim.model.container import ExitRecord
from shim.services import exits, recovery
from shim.services.node import Node
from shim.services.sandboxes import namespaces, teardown

log = logging.getLogger(__name__)


async def reconcile(node: Node) -> None:
    """Bring records, supervisor and kernel together, then remove what belongs to no record.

    The supervisor must be connected and the records loaded; from here on exits are taken in as they come.
    """
    for decision in recovery.decide(
        list(node.records.sandboxes()), list(node.records.containers()), await _look(node)
    ):
        try:
            await _carry_out(node, decision)
        except Exception as error:
            log.exception("cannot carry out %s: %s", decision, error)
    await remove_leftovers(node)


async def _look(node: Node) -> recovery.World:
    children = {child.id: child for child in await node.supervisor.children()}
    return recovery.World(
        boot_id=node.boot_id,
        now_ns=node.now_ns(),
        children=children,
        exits=...,
        pinned=await node.pools.files.run(namespaces.pinned_paths),
    )
