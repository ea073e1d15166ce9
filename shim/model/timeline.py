"""What has happened to pods, containers and images, for a person who asks why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage of a call.

    Attributes:
        name: of the stage.
        depth: how many stages are around it.
        took_us: microseconds; -1 where it had not ended when the call did.
        failed: an error left it.
    """

    name: str
    depth: int
    took_us: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        at_ns: when it ended, nanoseconds since the epoch.
        what: the method of the CRI, or what happened by itself, such as ``exit``.
        keys: whole ids and names of all that it concerns; it is found by each of them.
        text: the error, or what there is to tell; empty for a call that went well.
        ok: nothing failed.
        stage: the path of the stage that failed, its parts joined by `` > ``; empty if none did.
        took_us: microseconds; 0 for what happened by itself.
        stages: in the order in which they began.
        times: how often the same happened in a row; ``at_ns`` is the last time.
    """

    at_ns: int
    what: str
    keys: tuple[str, ...]
    text: str = ""
    ok: bool = True
    stage: str = ""
    took_us: int = 0
    stages: tuple[StageTime, ...] = ()
    times: int = 1
