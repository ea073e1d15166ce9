"""Who is told of every call: the timeline here, metrics and traces where they are asked for."""

from __future__ import annotations

from collections.abc import Callable

from shim.api.calls import Call, Observer
from shim.services.node import Node
from shim.services.timeline import RECORDED, entry_of_call, keys_of_call


def timeline_observer(node: Node) -> Observer:
    """Return what adds calls to the timeline of ``node``."""

    def begin(call: Call) -> Callable[[Call], None] | None:
        if call.method not in RECORDED:
            return None
        keys = keys_of_call(node, call.fields)  # now: after a removal nobody knows the names any more

        def end(call: Call) -> None:
            every = tuple(dict.fromkeys((*keys, *call.made)))
            entry = entry_of_call(node.now_ns(), call.method, every, call.operation, call.error)
            if entry is not None:
                node.timeline.add(entry)

        return end

    return begin
