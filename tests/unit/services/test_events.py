import asyncio
import dataclasses
import threading
from typing import Any

import pytest

from shim.errors import ResourceExhausted, Unavailable
from shim.model.container import ContainerStatus
from shim.model.sandbox import SandboxStatus
from shim.services import events
from shim.services.containers.create import create_container
from shim.services.containers.remove import remove_container
from shim.services.containers.start import start_container
from shim.services.events import Event, Events, EventType, Subscription
from shim.services.exit_reasons import START_ERROR
from shim.services.sandboxes.list import list_sandboxes
from shim.services.sandboxes.remove import remove_pod_sandbox
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.stop import stop_pod_sandbox

CREATED, STARTED, STOPPED, DELETED = EventType


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def event(number: int) -> Event:
    return Event(f"id{number}", CREATED, number, None, ())  # type: ignore[arg-type]


async def told(subscription: Subscription, count: int) -> list[str]:
    found: list[str] = []
    if count:
        async for each in subscription.events():
            found.append(each.id)
            if len(found) == count:
                break
    return found


def test_events_are_wanted_while_somebody_listens_or_can_be_told_later() -> None:
    clock = Clock()
    kept = Events(clock=clock)
    assert kept.wanted()  # before anybody can come
    kept.opened()
    clock.now += events.REPLAY_S
    assert not kept.wanted()
    listener = kept.subscribe()
    assert kept.wanted()
    listener.close()
    assert not kept.wanted()


@pytest.mark.parametrize(
    ("before", "after", "types"),
    [
        (ContainerStatus(), ContainerStatus(started_at_ns=1), (STARTED,)),
        (ContainerStatus(started_at_ns=1), ContainerStatus(started_at_ns=1, finished_at_ns=2), (STOPPED,)),
        (ContainerStatus(), ContainerStatus(finished_at_ns=2, reason=START_ERROR), (STOPPED,)),
        (ContainerStatus(), ContainerStatus(delivered=True), ()),
        # The end is noted before the start is: both are told once the start is known.
        (ContainerStatus(), ContainerStatus(finished_at_ns=2), ()),
        (
            ContainerStatus(finished_at_ns=2),
            ContainerStatus(started_at_ns=1, finished_at_ns=2),
            (STARTED, STOPPED),
        ),
        (
            ContainerStatus(finished_at_ns=2),
            ContainerStatus(finished_at_ns=3, reason=START_ERROR),
            (STOPPED,),
        ),
    ],
)
def test_what_a_change_of_a_container_means(
    before: ContainerStatus, after: ContainerStatus, types: tuple[EventType, ...]
) -> None:
    assert events.of_container(before, after) == types


@pytest.mark.parametrize(
    ("before", "after", "types"),
    [
        (SandboxStatus(), SandboxStatus(ready_at_ns=1), (CREATED, STARTED)),
        (SandboxStatus(ready_at_ns=1), SandboxStatus(ready_at_ns=1, stopped_at_ns=2), (STOPPED,)),
        (SandboxStatus(ready_at_ns=1), SandboxStatus(ready_at_ns=1, delivered=True), ()),
        (SandboxStatus(), SandboxStatus(stopped_at_ns=2), ()),
    ],
)
def test_what_a_change_of_a_sandbox_means(
    before: SandboxStatus, after: SandboxStatus, types: tuple[EventType, ...]
) -> None:
    assert events.of_sandbox(before, after) == types


async def test_everybody_is_told_in_order() -> None:
    bus = Events()
    first, second = bus.subscribe(), bus.subscribe()
    for number in range(3):
        bus.publish(event(number))
    for each in (first, second):
        assert await told(each, 3) == ["id0", "id1", "id2"]
    first.close()
    first.close()
    assert bus.listeners == 1


async def test_who_is_too_far_behind_is_let_go_and_the_others_are_not() -> None:
    bus = Events(limit=2)
    bus.opened()
    slow, fast = bus.subscribe(), bus.subscribe()
    for number in range(3):
        bus.publish(event(number))
        assert await told(fast, 1) == [f"id{number}"]
    assert (bus.cut_off, bus.listeners) == (1, 1)
    with pytest.raises(ResourceExhausted, match="more than 2 events behind"):
        await told(slow, 1)


async def test_who_waits_is_woken() -> None:
    bus = Events()
    waiting = asyncio.create_task(told(bus.subscribe(), 1))
    await asyncio.sleep(0)
    bus.publish(event(7))
    assert await waiting == ["id7"]


async def test_at_the_end_everybody_gets_what_waits_and_a_clear_status() -> None:
    bus = Events()
    listener = bus.subscribe()
    bus.publish(event(1))
    bus.close()
    assert await told(listener, 1) == ["id1"]
    for each in (listener, bus.subscribe()):
        with pytest.raises(Unavailable, match="the daemon stops"):
            await told(each, 5)


async def test_clients_of_the_daemon_before_are_told_what_they_missed() -> None:
    clock = Clock()
    bus = Events(clock=clock)
    bus.publish(event(1))
    bus.opened()
    clock.now += events.REPLAY_S - 1
    bus.publish(event(2))
    assert await told(bus.subscribe(), 2) == ["id1", "id2"]
    clock.now += 1
    late = bus.subscribe()
    bus.publish(event(3))
    assert await told(late, 1) == ["id3"]


async def test_a_replay_that_would_be_incomplete_is_none() -> None:
    bus = Events(limit=2)
    for number in range(3):
        bus.publish(event(number))
    late = bus.subscribe()
    bus.publish(event(9))
    assert await told(late, 1) == ["id9"]


def test_times_only_grow() -> None:
    bus = Events()
    stamps = [bus.stamp() for _ in range(1000)]
    assert stamps == sorted(set(stamps))
    assert bus.now_ns() >= stamps[-1]


class Listener:
    """Takes note of each event, and of what the lists said when it came."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self.seen: list[tuple[str, EventType]] = []
        self.states: list[tuple[str, tuple[str, ...]]] = []
        self.stale: list[Event] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for each in self._bench.node.records.events.subscribe().events():
            self.seen.append((each.id, each.type))
            self.states.append((each.sandbox.state.name, tuple(c.state.name for c in each.containers)))
            records = self._bench.node.records
            known = {view.spec.id for view in (*list_sandboxes(self._bench.node), *records.containers())}
            if (each.type is not DELETED) != (each.id in known):
                self.stale.append(each)


async def test_the_life_of_a_pod(bench: Any) -> None:
    listener = Listener(bench)
    pod = await run_pod_sandbox(bench.node, bench.sandbox())
    one = await create_container(bench.node, pod, bench.container("one"))
    await start_container(bench.node, one)
    bench.world.end(one)
    two = await create_container(bench.node, pod, bench.container("two"))
    await bench.until(lambda: bench.node.records.container(one).status.finished_at_ns)
    await remove_container(bench.node, two)
    await stop_pod_sandbox(bench.node, pod)
    await remove_pod_sandbox(bench.node, pod)
    await bench.until(lambda: len(listener.seen) == 10)
    listener.task.cancel()
    mine = [[type_ for id_, type_ in listener.seen if id_ == each] for each in (pod, one, two)]
    every = [CREATED, STARTED, STOPPED, DELETED]
    assert mine == [every, every, [CREATED, DELETED]]
    assert listener.seen[0] == (pod, CREATED)
    assert listener.seen[-1] == (pod, DELETED)
    assert listener.states[0] == ("READY", ())
    assert listener.states[-1] == ("NOTREADY", ())
    assert listener.states[listener.seen.index((one, STARTED))] == ("READY", ("RUNNING",))
    assert listener.stale == []


async def test_a_pod_that_could_not_be_made_has_no_events(bench: Any) -> None:
    listener = Listener(bench)
    bench.network.setup_error = ResourceExhausted("no address is free")
    with pytest.raises(ResourceExhausted):
        await run_pod_sandbox(bench.node, bench.sandbox())
    bench.network.setup_error = None
    pod = await run_pod_sandbox(bench.node, bench.sandbox("other"))
    await bench.until(lambda: listener.seen)
    listener.task.cancel()
    assert listener.seen[0] == (pod, CREATED)


async def test_a_change_is_told_whether_or_not_its_caller_still_waits(bench: Any) -> None:
    listener = Listener(bench)
    pod = await run_pod_sandbox(bench.node, bench.sandbox())
    began, go_on = threading.Event(), threading.Event()

    def stopped(status: SandboxStatus) -> SandboxStatus:
        began.set()
        go_on.wait(10)
        return dataclasses.replace(status, stopped_at_ns=5)

    stopping = asyncio.create_task(bench.node.records.update_sandbox(pod, stopped))
    await bench.until(began.is_set)
    stopping.cancel()
    go_on.set()
    await bench.until(lambda: (pod, STOPPED) in listener.seen)
    listener.task.cancel()
