"""ListPodSandbox."""

from __future__ import annotations

import dataclasses

from shim.services.node import Node
from shim.services.views import SandboxFilter, SandboxView, whole_id


def list_sandboxes(node: Node, wanted: SandboxFilter | None = None) -> list[SandboxView]:
    """Return the sandboxes that match, from memory alone. Those that are being made are not shown yet."""
    wanted = wanted or SandboxFilter()
    whole = dataclasses.replace(wanted, id=whole_id(wanted.id, node.records.resolve_sandbox))
    return [
        view
        for view in node.records.sandboxes()
        if (view.spec.id not in node.making or view.status.ready_at_ns) and whole.matches(view)
    ]
