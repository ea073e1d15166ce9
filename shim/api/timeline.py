"""Our own service Timeline, and the timeline in verbose answers."""

from __future__ import annotations

from typing import Any, Final

from shim._proto import timeline_pb2 as wire
from shim.model.timeline import Entry
from shim.services.node import Node
from shim.services.why import Explanation, why

_LATEST: Final = 50  # entries in a verbose answer


class TimelineService:
    """The methods of the service."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def why(self, request: wire.WhyRequest, _context: Any) -> wire.WhyResponse:
        """Explain one object."""
        return encode(why(self._node, request.subject))


def encode(value: Explanation) -> wire.WhyResponse:
    """Return an explanation as a message."""
    return wire.WhyResponse(
        title=value.title,
        entries=map(encode_entry, value.entries),
        waiting=value.waiting,
        conclusion=value.conclusion,
    )


def encode_entry(entry: Entry) -> wire.Entry:
    """Return an entry as a message."""
    return wire.Entry(
        at_ns=entry.at_ns,
        what=entry.what,
        text=entry.text,
        ok=entry.ok,
        stage=entry.stage,
        took_us=entry.took_us,
        times=entry.times,
        stages=[
            wire.Stage(name=each.name, depth=each.depth, took_us=each.took_us, failed=each.failed)
            for each in entry.stages
        ],
    )


def plain(node: Node, id_: str) -> list[dict[str, Any]]:
    """Return the latest entries that concern an object, for the JSON of a verbose answer."""
    return [
        {
            "at": entry.at_ns,
            "what": entry.what,
            "ok": entry.ok,
            "ms": entry.took_us / 1000,
            **({"text": entry.text} if entry.text else {}),
            **({"stage": entry.stage} if entry.stage else {}),
            **({"times": entry.times} if entry.times > 1 else {}),
            "stages": {each.name: each.took_us / 1000 for each in entry.stages},
        }
        for entry in node.timeline.find((id_,))[-_LATEST:]
    ]
