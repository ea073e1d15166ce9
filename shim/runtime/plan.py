"""A plan: the steps of both stages, as one value that travels to the child."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from shim.errors import Internal
from shim.runtime.steps import Step, decode_step, encode_step

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What an init child does.

    Attributes:
        kind: ``container``, ``exec``, ``namespaces`` or ``init``.
        stage1: as the host's root, in a fork of the supervisor.
        stage2: in the process that the container sees; empty for a plan that runs no program.
        hold: whether stage 2 waits for the daemon's go before its first step.
        unseen: when stage 1 forks it is in the cgroups, has the program's user and its seccomp filter already
            (``plan_unseen``).
    """

    kind: str
    stage1: tuple[Step, ...]
    stage2: tuple[Step, ...] = ()
    hold: bool = False
    unseen: bool = False


def encode_plan(plan: Plan) -> bytes:
    """Return a plan as JSON; bytes that are no UTF-8 travel as surrogates."""
    value = {
        "version": VERSION,
        "kind": plan.kind,
        "hold": plan.hold,
        "unseen": plan.unseen,
        "stage1": [encode_step(step) for step in plan.stage1],
        "stage2": [encode_step(step) for step in plan.stage2],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def decode_plan(data: bytes) -> Plan:
    """Return the plan of ``encode_plan``.

    Raises:
        Internal: it is of another version, or has a step that this version does not know.
    """
    value = json.loads(data)
    if value.get("version") != VERSION:
        raise Internal(f"the plan has version {value.get('version')}, this supervisor knows {VERSION}")
    stage1, stage2 = (tuple(map(decode_step, value[name])) for name in ("stage1", "stage2"))
    return Plan(value["kind"], stage1, stage2, value["hold"], value["unseen"])
