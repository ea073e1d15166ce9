import dataclasses
from typing import Any

from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerStatus,
    ExitRecord,
    ProcessRef,
)
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec, SandboxStatus
from shim.model.security import User
from shim.services import recovery
from shim.services.recovery import (
    ChildOrphaned,
    ContainerEnded,
    ContainerRuns,
    RecordStale,
    SandboxPending,
    SandboxVoid,
    World,
)
from shim.supervisor.protocol import CONTAINER, EXEC, INIT, ChildInfo

CONTAINER_SPEC = ContainerSpec(
    id="c1",
    sandbox_id="s1",
    config=ContainerConfig(ContainerMetadata("c"), ImageSpec("i")),
    image_id="sha256:0",
    image_ref="i",
    user=User(0, 0),
    log_path="",
    cgroup="/p/c1",
    stop_signal=15,
    rootfs=Rootfs((), "", ""),
    argv=("sh",),
    cwd="/",
    env=(),
    created_at_ns=1,
)
SANDBOX_SPEC = SandboxSpec(
    id="s1",
    config=SandboxConfig(SandboxMetadata("web", "u1", "default")),
    handler="",
    created_at_ns=1,
    cgroup_driver="cgroupfs",
    cgroup_parent="/p",
    network="builtin",
    pins={"net": "/run/netns/cri-shim-s1"},
)
RUNNING = ContainerStatus(started_at_ns=5, process=ProcessRef(10, 77, "boot"))
READY = SandboxStatus(ready_at_ns=4, boot_id="boot")
CHILD = ChildInfo("c1", CONTAINER, 10, 77)
EXIT = ExitRecord("c1", 10, 3, 0, 0, 9)


def world(**what: Any) -> World:
    base = World("boot", 100, pinned=frozenset({"/run/netns/cri-shim-s1"}))
    return dataclasses.replace(base, **what)


def test_a_container_that_the_supervisor_has_goes_on() -> None:
    assert recovery.decide_container(CONTAINER_SPEC, RUNNING, world(children={"c1": CHILD})) is None


def test_an_exit_that_happened_meanwhile_keeps_its_code_and_time() -> None:
    for there in (world(exits={"c1": EXIT}), world(children={"c1": dataclasses.replace(CHILD, record=EXIT)})):
        assert recovery.decide_container(CONTAINER_SPEC, RUNNING, there) == ContainerEnded("c1", EXIT)


def test_an_exit_that_nobody_saw_is_unknown_and_never_zero() -> None:
    decision = recovery.decide_container(CONTAINER_SPEC, RUNNING, world())
    assert decision == ContainerEnded("c1", ExitRecord("c1", 10, 255, 0, 0, 100, "unknown"))


def test_a_start_whose_record_was_not_written_is_found() -> None:
    decision = recovery.decide_container(CONTAINER_SPEC, ContainerStatus(), world(children={"c1": CHILD}))
    assert decision == ContainerRuns("c1", ProcessRef(10, 77, "boot"), 100)


def test_created_and_finished_containers_stay_as_they_were() -> None:
    finished = dataclasses.replace(RUNNING, finished_at_ns=6)
    assert recovery.decide_container(CONTAINER_SPEC, ContainerStatus(), world()) is None
    assert recovery.decide_container(CONTAINER_SPEC, finished, world(exits={"c1": EXIT})) is None


def test_a_ready_sandbox_stays() -> None:
    assert recovery.decide_sandbox(SANDBOX_SPEC, READY, world()) is None


def test_a_sandbox_is_void_after_a_boot_without_its_pin_or_without_its_init() -> None:
    shared = dataclasses.replace(SANDBOX_SPEC, pins={"pid": "/p"})
    pinned = frozenset({"/p"})
    init = ChildInfo("s1", INIT, 11, 78)
    assert isinstance(recovery.decide_sandbox(SANDBOX_SPEC, READY, world(boot_id="other")), SandboxVoid)
    assert isinstance(recovery.decide_sandbox(SANDBOX_SPEC, READY, world(pinned=frozenset())), SandboxVoid)
    assert isinstance(recovery.decide_sandbox(shared, READY, world(pinned=pinned)), SandboxVoid)
    assert recovery.decide_sandbox(shared, READY, world(pinned=pinned, children={"s1": init})) is None


def test_a_sandbox_that_was_being_made_or_is_half_stopped_is_torn_down() -> None:
    pending = dataclasses.replace(READY, stopped_at_ns=6, pending=("network",))
    undone = SandboxStatus(stopped_at_ns=6, boot_id="boot")
    assert isinstance(
        recovery.decide_sandbox(SANDBOX_SPEC, SandboxStatus(boot_id="boot"), world()), SandboxVoid
    )
    assert recovery.decide_sandbox(SANDBOX_SPEC, pending, world()) == SandboxPending("s1")
    assert recovery.decide_sandbox(SANDBOX_SPEC, undone, world()) == SandboxPending("s1")
    stopped = dataclasses.replace(READY, stopped_at_ns=6)
    assert recovery.decide_sandbox(SANDBOX_SPEC, stopped, world()) is None


def test_children_that_nobody_asks_for_are_killed() -> None:
    children = {
        "c1": CHILD,
        "e1": ChildInfo("e1", EXEC, 12, 79),
        "c2": ChildInfo("c2", CONTAINER, 13, 80),
    }
    decisions = recovery.decide(
        [(SANDBOX_SPEC, READY)], [(CONTAINER_SPEC, RUNNING)], world(children=children)
    )
    assert [(type(d), d.id) for d in decisions] == [(ChildOrphaned, "e1"), (ChildOrphaned, "c2")]


def test_exit_records_that_tell_nothing_new_are_forgotten_and_containers_come_first() -> None:
    there = world(exits={"c1": EXIT, "e9": dataclasses.replace(EXIT, id="e9")}, boot_id="other")
    decisions = recovery.decide([(SANDBOX_SPEC, READY)], [(CONTAINER_SPEC, RUNNING)], there)
    assert [(type(d), d.id) for d in decisions] == [
        (ContainerEnded, "c1"),
        (SandboxVoid, "s1"),
        (RecordStale, "e9"),
    ]
