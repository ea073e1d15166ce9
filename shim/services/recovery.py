"""What a starting daemon makes of what it finds. Pure: values in, decisions out (`reconcile` does them).

The kernel is the truth, a record is a claim. For each record one question is asked of, in order: the exit
records, the supervisor's children, the kernel.

    container  has an exit record                          -> ended, with its real code and time
               the supervisor has it                       -> runs (and started, if the crash came in between)
               was started, the supervisor has it not      -> ended: 255, Unknown; its remains are killed
               was never started                           -> as it was
    sandbox    stopped, with steps pending                 -> try them again
               never became ready                          -> tear it down and forget it: nobody knows its id
               of another boot, a pin gone, its init gone  -> NOTREADY, tear it down
    children   an exec (who asked for it is gone), or one without record -> killed and forgotten
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shim.model.container import ContainerSpec, ContainerStatus, ExitRecord, ProcessRef
from shim.model.sandbox import SandboxSpec, SandboxStatus
from shim.services import exit_reasons
from shim.supervisor.protocol import EXEC, ChildInfo


@dataclass(frozen=True, slots=True)
class World:
    """What is there.

    Attributes:
        children: what the supervisor looks after, by id.
        exits: the exit records on tmpfs, by id.
        pinned: pin paths at which a namespace is mounted.
    """

    boot_id: str
    now_ns: int
    children: Mapping[str, ChildInfo] = field(default_factory=dict)
    exits: Mapping[str, ExitRecord] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ContainerEnded:
    """Write this end into the status of a container, after killing what is left of it."""

    id: str
    record: ExitRecord


@dataclass(frozen=True, slots=True)
class ContainerRuns:
    """The container was started, but the crash came before its status was written."""

    id: str
    process: ProcessRef
    started_at_ns: int


@dataclass(frozen=True, slots=True)
class SandboxVoid:
    """The sandbox is no more: mark it stopped and tear it down. ``why`` is for the log."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class SandboxPending:
    """Steps of an earlier stop have failed: try them again."""

    id: str


@dataclass(frozen=True, slots=True)
class ChildOrphaned:
    """Nobody asked for this process any more: kill it and let the supervisor forget it."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class RecordStale:
    """An exit record that tells nothing new: forget it."""

    id: str


Decision = ContainerEnded | ContainerRuns | SandboxVoid | SandboxPending | ChildOrphaned | RecordStale


def decide(
    sandboxes: Iterable[tuple[SandboxSpec, SandboxStatus]],
    containers: Iterable[tuple[ContainerSpec, ContainerStatus]],
    world: World,
) -> list[Decision]:
    """Return what is to be done, containers first: a sandbox is torn down around containers that ended."""
    known: dict[str, bool] = {}  # id -> may still have a process
    decisions: list[Decision] = []
    for spec, status in containers:
        decision = decide_container(spec, status, world)
        known[spec.id] = not status.finished_at_ns and not isinstance(decision, ContainerEnded)
        if decision is not None:
            decisions.append(decision)
    for sandbox, sandbox_status in sandboxes:
        sandbox_decision = decide_sandbox(sandbox, sandbox_status, world)
        known[sandbox.id] = not sandbox_status.stopped_at_ns
        if sandbox_decision is not None:
            decisions.append(sandbox_decision)
    ended = {decision.id for decision in decisions if isinstance(decision, ContainerEnded)}
    decisions += _decide_children(known, ended, world)
    return decisions


def decide_container(
    spec: ContainerSpec, status: ContainerStatus, world: World
) -> ContainerEnded | ContainerRuns | None:
    """Return what has become of one container; None: it is as its record says."""
    if status.finished_at_ns:
        return None
    child = world.children.get(spec.id)
    record = world.exits.get(spec.id) or (child.record if child is not None else None)
    if record is not None:
        return ContainerEnded(spec.id, record)
    if child is not None:
        process = ProcessRef(child.pid, child.start_time, world.boot_id)
        if status.started_at_ns and status.process == process:
            return None
        return ContainerRuns(spec.id, process, status.started_at_ns or world.now_ns)
    if not status.started_at_ns:
        return None
    return ContainerEnded(spec.id, unknown_exit(spec.id, status, world.now_ns))


def decide_sandbox(
    spec: SandboxSpec, status: SandboxStatus, world: World
) -> SandboxVoid | SandboxPending | None:
    """Return what has become of one sandbox; None: it is as its record says."""
    if status.stopped_at_ns:
        return SandboxPending(spec.id) if status.pending or not status.ready_at_ns else None
    if not status.ready_at_ns:
        return SandboxVoid(spec.id, "the daemon ended while it was being made")
    if status.boot_id != world.boot_id:
        return SandboxVoid(spec.id, "the node was started again")
    lost = [path for path in spec.pins.values() if path not in world.pinned]
    if lost:
        return SandboxVoid(spec.id, f"no namespace is pinned at {lost[0]}")
    if "pid" in spec.pins:
        init = world.children.get(spec.id)
        if init is None or init.record is not None or spec.id in world.exits:
            return SandboxVoid(spec.id, "the init of its pid namespace is gone")
    return None


def unknown_exit(id_: str, status: ContainerStatus, now_ns: int) -> ExitRecord:
    """Return the record of an exit that nobody saw: 255, now, never 0."""
    pid = status.process.pid if status.process is not None else 0
    return ExitRecord(id_, pid, exit_reasons.UNKNOWN_EXIT_CODE, 0, 0, now_ns, "unknown")


def _decide_children(known: Mapping[str, bool], ended: set[str], world: World) -> list[Decision]:
    decisions: list[Decision] = []
    for child in world.children.values():
        if child.record is not None or child.id in ended:
            continue
        if child.kind == EXEC:
            decisions.append(ChildOrphaned(child.id, "the call that asked for this exec is gone"))
        elif not known.get(child.id, False):
            decisions.append(ChildOrphaned(child.id, "no record asks for it"))
    finished = set(world.exits) | {c.id for c in world.children.values() if c.record is not None}
    decisions += [RecordStale(id_) for id_ in sorted(finished - ended)]
    return decisions
