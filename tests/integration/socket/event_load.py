"""Many pods and containers, three clients of their events, and daemons that are killed in between.

Two clients keep up, the third reads nothing at first. What is claimed of every client that keeps up: each pod
and container has its whole life, in order, nothing twice, times only grow, and the ends of containers that
were killed while no daemon ran are told too. ``hack/flood-events`` runs it long, a test runs it short.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from shim._proto import api_pb2 as cri
from shim.cli.client import Stub

CREATED, STARTED, STOPPED, DELETED = range(4)
LIFE = [CREATED, STARTED, STOPPED, DELETED]
PATIENCE_S = 120
CONTAINERS = 6  # in a pod
NOTE_BYTES = 8000  # in each event: else the transport takes thousands of them for who does not read
EVENTS_OF_A_POD = len(LIFE) * (1 + CONTAINERS)


class Listener:
    """A client in a thread of its own, which asks again when the daemon has gone."""

    def __init__(self, daemon: Any, look: Callable[[Any], None] | None = None) -> None:
        self._daemon = daemon
        self._look = look
        self._left = threading.Event()
        self.listening = threading.Event()
        self.events: list[cri.ContainerEventResponse] = []
        self.codes: list[grpc.StatusCode] = []
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.listening.wait(60)

    def _run(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        while not self._left.is_set():
            with grpc.insecure_channel(f"unix:{self._daemon.socket}", options=options) as channel:
                runtime = Stub(channel, cri, "RuntimeService")
                self._call = runtime.GetContainerEvents(cri.GetEventsRequest(), wait_for_ready=True)
                try:
                    self._call.initial_metadata()
                    self.listening.set()
                    for event in self._call:
                        if self._look is not None:
                            self._look(event)
                        self.events.append(event)
                except grpc.RpcError as error:
                    self.listening.clear()
                    self.codes.append(error.code())

    def leave(self) -> None:
        self._left.set()
        self._call.cancel()
        self._thread.join(20)

    def types_of(self, id_: str) -> list[int]:
        return [event.container_event_type for event in self.events if event.container_id == id_]


class Stalled:
    """A client that asks for events, and reads none before it is told to."""

    def __init__(self, path: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(f"unix:{path}", options=options)
        self._call = Stub(self._channel, cri, "RuntimeService").GetContainerEvents(cri.GetEventsRequest())
        self._call.initial_metadata()
        self.times: list[int] = []
        self.error: grpc.RpcError | None = None

    def read(self) -> None:
        """Read to the end of the stream."""
        try:
            for event in self._call:
                self.times.append(event.created_at)
        except grpc.RpcError as error:
            self.error = error
        self._channel.close()

    def leave(self) -> None:
        """End the stream, unless the daemon has done that."""
        self._call.cancel()


@dataclass(frozen=True)
class Report:
    """What was seen.

    Attributes:
        stalled: how many events the client that reads nothing got in the end, and the code it was ended with.
    """

    events: int
    restarts: int
    stalled: tuple[int, str]


def run_load(daemon: Any, batches: Sequence[int], width: int = 4) -> Report:
    """Make so many events in each batch, kill the daemon between them; check what clients hear."""
    listeners = [Listener(daemon), Listener(daemon)]
    stalled = Stalled(str(daemon.socket))
    lives: list[str] = []
    keeper = daemon.run_pod()
    kept: list[str] = []
    for number, count in enumerate(batches):
        if number:
            _restart(daemon, keeper, kept, listeners)
        pods = -(-count // EVENTS_OF_A_POD)
        with ThreadPoolExecutor(width) as threads:
            for ids in threads.map(lambda _: _pod_with_life(daemon), range(pods)):
                lives += ids
        if not number:
            reading = threading.Thread(target=stalled.read)
            reading.start()
    daemon.remove(keeper[0])
    for listener in listeners:
        daemon.until(lambda here=listener: here.types_of(keeper[0])[-1:] == [DELETED], PATIENCE_S)
        listener.leave()
    stalled.leave()
    reading.join(PATIENCE_S)
    return _check(listeners, [*lives, *kept, keeper[0]], stalled, len(batches) - 1)


def _pod_with_life(daemon: Any) -> list[str]:
    config = daemon.pod_config()
    config.annotations["note"] = "x" * NOTE_BYTES
    pod = daemon.run_pod(config)
    ids = [daemon.create(pod, daemon.container_config("true")) for _ in range(CONTAINERS)]
    for id_ in ids:
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    for id_ in ids:
        daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=id_, timeout=10))
        daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=id_))
    daemon.remove(pod[0])
    return [pod[0], *ids]


def _restart(daemon: Any, keeper: Any, kept: list[str], listeners: Sequence[Listener]) -> None:
    """Kill the daemon, then containers while there is none."""
    ids = [daemon.run(keeper) for _ in range(3)]
    kept += ids
    for listener in listeners:
        daemon.until(lambda here=listener: here.types_of(ids[-1]) == [CREATED, STARTED], PATIENCE_S)
    pids = [daemon.pid(id_) for id_ in ids]
    daemon.end(signal.SIGKILL)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    for listener in listeners:
        daemon.until(lambda here=listener: all(STOPPED in here.types_of(id_) for id_ in ids), PATIENCE_S)


def _check(listeners: Sequence[Listener], ids: Sequence[str], stalled: Stalled, restarts: int) -> Report:
    heard = []
    mine = frozenset(ids)  # a daemon that is just there also tells of what was before
    for listener in listeners:
        events = [event for event in listener.events if event.container_id in mine]
        by_id = defaultdict(list)
        for event in events:
            by_id[event.container_id].append(event.container_event_type)
        wrong = {id_: by_id[id_] for id_ in ids if by_id[id_] != LIFE}
        assert wrong == {}, f"{len(wrong)} of {len(ids)} lives are not whole or out of order: {wrong}"
        times = [event.created_at for event in events]
        assert times == sorted(set(times))
        heard.append([(event.container_id, event.container_event_type, event.created_at) for event in events])
    assert heard[0] == heard[1]
    known = [event.created_at for event in listeners[0].events]
    assert stalled.times == known[: len(stalled.times)]
    assert stalled.error is not None
    return Report(len(heard[0]), restarts, (len(stalled.times), stalled.error.code().name))
