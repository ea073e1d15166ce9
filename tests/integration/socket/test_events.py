"""GetContainerEvents through the socket: clients that come, fall behind, and outlive daemons."""

from __future__ import annotations

import os
import signal
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.socket.event_load import CREATED, DELETED, LIFE, STARTED, STOPPED, Listener, run_load

pytestmark = pytest.mark.root


def test_the_life_of_a_pod_is_told_to_everybody_in_order(daemon: Any) -> None:
    stale = []

    def look(event: cri.ContainerEventResponse) -> None:
        """A list is at least as new as any event; those of pods before are told again."""
        if event.pod_sandbox_status.metadata.uid != config.metadata.uid:
            return
        listed = {
            each.id: each.state for each in runtime.ListContainers(cri.ListContainersRequest()).containers
        }
        listed |= {each.id: 0 for each in runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items}
        kind = event.container_event_type
        if kind in (CREATED, STARTED) and event.container_id not in (*listed, *removed):
            stale.append(event)
        if kind == DELETED and event.container_id in listed:
            stale.append(event)

    runtime, removed, config = daemon.runtime, set[str](), daemon.pod_config()
    listeners = [Listener(daemon, look), Listener(daemon)]
    pod = daemon.run_pod(config)
    id_ = daemon.run(pod, "true")
    daemon.wait(id_)
    long = daemon.run(pod, "sleep", "1000")
    daemon.stop(long)
    removed |= {pod[0], id_, long}
    daemon.remove(pod[0])
    for listener in listeners:
        daemon.until(lambda here=listener: here.types_of(pod[0]) == LIFE)
        listener.leave()
        assert (listener.types_of(id_), listener.types_of(long)) == (LIFE, LIFE)
        times = [event.created_at for event in listener.events]
        assert times == sorted(set(times))
    assert stale == []
    mine = [event for event in listeners[0].events if event.container_id in (pod[0], id_, long)]
    assert {event.pod_sandbox_status.metadata.uid for event in mine} == {pod[1].metadata.uid}
    started = next(
        event for event in mine if event.container_id == long and event.container_event_type == STARTED
    )
    assert started.pod_sandbox_status.state == cri.SANDBOX_READY
    assert [each.id for each in started.containers_statuses] == [id_, long]
    assert started.containers_statuses[1].state == cri.CONTAINER_RUNNING
    gone = mine[-1]
    assert (gone.container_id, gone.pod_sandbox_status.state) == (pod[0], cri.SANDBOX_NOTREADY)


def test_a_start_that_fails_is_an_end(daemon: Any) -> None:
    listener = Listener(daemon)
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError):
        daemon.run(pod, "/no/such/program")

    def of_pod() -> list[cri.ContainerEventResponse]:
        """Its events alone: those of pods before are told again."""
        return [event for event in listener.events if event.pod_sandbox_status.id == pod[0]]

    daemon.until(lambda: [each.container_event_type for each in of_pod()][-1:] == [STOPPED])
    last = of_pod()[-1]
    assert listener.types_of(last.container_id) == [CREATED, STOPPED]
    assert last.containers_statuses[0].reason == "StartError"
    listener.leave()


def test_an_end_that_no_daemon_saw_is_told_to_who_comes_back(daemon: Any) -> None:
    listener = Listener(daemon)
    pod = daemon.run_pod()
    id_ = daemon.run(pod, "sleep", "1000")
    kept = daemon.run(pod, "sleep", "1000")
    pid = daemon.pid(id_)
    daemon.end(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    daemon.start()
    daemon.until(lambda: listener.types_of(id_) == [CREATED, STARTED, STOPPED])
    assert listener.types_of(kept) == [CREATED, STARTED]
    ended = next(each for each in listener.events[-1].containers_statuses if each.id == id_)
    assert (ended.exit_code, ended.state) == (137, cri.CONTAINER_EXITED)
    daemon.restart(signal.SIGTERM)
    daemon.until(listener.listening.is_set)
    assert set(listener.codes) == {grpc.StatusCode.UNAVAILABLE}
    daemon.remove(pod[0])
    daemon.until(lambda: listener.types_of(pod[0])[-1] == DELETED)
    listener.leave()
    assert listener.types_of(id_)[-1] == DELETED


def test_a_pods_status_tells_of_its_containers_and_when(daemon: Any) -> None:
    pod = daemon.run_pod()
    ids = [daemon.run(pod) for _ in range(2)]
    answer = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0], verbose=True))
    assert answer.status.id == pod[0]
    assert answer.info["info"]
    assert list(answer.containers_statuses) == [daemon.status(id_) for id_ in ids]
    again = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0]))
    assert 0 < answer.timestamp < again.timestamp


def test_streams_tell_what_lists_tell(daemon: Any) -> None:
    pods = [daemon.run_pod() for _ in range(3)]
    for pod in pods:
        daemon.run(pod)
    runtime, images = daemon.runtime, daemon.images
    streamed = [i for m in runtime.StreamContainers(cri.StreamContainersRequest()) for i in m.containers]
    assert streamed == list(runtime.ListContainers(cri.ListContainersRequest()).containers)
    streamed = [
        i for m in runtime.StreamPodSandboxes(cri.StreamPodSandboxesRequest()) for i in m.pod_sandboxes
    ]
    assert streamed == list(runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items)
    streamed = [i for m in images.StreamImages(cri.StreamImagesRequest()) for i in m.images]
    assert streamed == list(images.ListImages(cri.ListImagesRequest()).images)
    stats = [
        i for m in runtime.StreamContainerStats(cri.StreamContainerStatsRequest()) for i in m.container_stats
    ]
    assert len({each.attributes.id for each in stats}) == 3
    wanted = cri.PodSandboxStatsFilter(id=pods[0][0])
    request = cri.StreamPodSandboxStatsRequest(filter=wanted)
    found = [i for m in runtime.StreamPodSandboxStats(request) for i in m.pod_sandbox_stats]
    assert [each.attributes.id for each in found] == [pods[0][0]]
    metrics = [
        i
        for m in runtime.StreamPodSandboxMetrics(cri.StreamPodSandboxMetricsRequest())
        for i in m.pod_sandbox_metrics
    ]
    assert {each.pod_sandbox_id for each in metrics} == {pod[0] for pod in pods}


def test_no_event_is_lost_or_told_out_of_order_over_restarts(daemon: Any) -> None:
    report = run_load(daemon, [60, 60], width=3)
    assert report.events >= 120
    assert report.restarts == 1
