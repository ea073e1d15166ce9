"""The stream as a client sees it, over a real server."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from shim._proto import api_pb2 as cri
from shim.api.events import EventStreams
from shim.api.registry import generic_handler
from shim.api.status import StatusInterceptor
from shim.api.statuses import Statuses
from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
)
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec, SandboxStatus
from shim.model.security import User
from shim.services.events import Event, Events, EventType
from shim.services.views import ContainerView, SandboxView

POD = SandboxView(
    SandboxSpec(
        id="s1",
        config=SandboxConfig(SandboxMetadata("web", "u1", "default")),
        handler="",
        created_at_ns=1,
        cgroup_driver="cgroupfs",
        cgroup_parent="/p",
        network="builtin",
    ),
    SandboxStatus(ready_at_ns=1),
)
CONTAINER = ContainerView(
    ContainerSpec(
        id="c1",
        sandbox_id="s1",
        config=ContainerConfig(ContainerMetadata("app"), ImageSpec("i"), annotations={"big": "x" * 20_000}),
        image_id="i",
        image_ref="i",
        user=User(0, 0),
        log_path="",
        cgroup="",
        stop_signal=15,
        rootfs=Rootfs((), "", ""),
        argv=(),
        cwd="",
        env=(),
        created_at_ns=1,
    ),
    ContainerStatus(started_at_ns=1),
)


class Node:
    def __init__(self, limit: int) -> None:
        self.events = Events(limit)
        self.records = SimpleNamespace(
            events=self.events,
            sandbox_count=1,
            container_count=1,
            sandboxes=lambda: [POD],
            containers=lambda: [CONTAINER],
        )

    def publish(self) -> int:
        stamp = self.events.stamp()
        self.events.publish(Event("c1", EventType.STOPPED, stamp, POD, (CONTAINER,)))
        return stamp


class Setting:
    """A server with a node, and clients of it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.node: Any = Node(limit)
        self._path = f"unix:{folder}/s"
        streams = EventStreams(self.node, Statuses(self.node))
        self._server = grpc.aio.server(interceptors=[StatusInterceptor()])
        self._server.add_generic_rpc_handlers((generic_handler(cri, "RuntimeService", streams),))
        self._server.add_insecure_port(self._path)
        self._channels: list[grpc.aio.Channel] = []

    async def __aenter__(self) -> "Setting":
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()
        await self._server.stop(0)

    async def client(self) -> Any:
        channel = grpc.aio.insecure_channel(self._path, options=[("grpc.use_local_subchannel_pool", 1)])
        self._channels.append(channel)
        method = channel.unary_stream(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            request_serializer=cri.GetEventsRequest.SerializeToString,
            response_deserializer=cri.ContainerEventResponse.FromString,
        )
        call = method(cri.GetEventsRequest())
        await call.initial_metadata()
        return call


async def test_an_event_tells_of_the_pod_and_of_all_in_it(tmp_path: Path) -> None:
    async with Setting(tmp_path, 10) as setting:
        client = await setting.client()
        stamp = setting.node.publish()
        event = await client.read()
    assert (event.container_id, event.created_at) == ("c1", stamp)
    assert event.container_event_type == cri.CONTAINER_STOPPED_EVENT
    assert event.pod_sandbox_status.metadata.uid == "u1"
    assert event.pod_sandbox_status.state == cri.SANDBOX_READY
    assert [(each.id, each.state) for each in event.containers_statuses] == [("c1", ContainerState.RUNNING)]


async def test_a_client_that_leaves_is_not_listened_for_any_more(tmp_path: Path) -> None:
    async with Setting(tmp_path, 10) as setting:
        client = await setting.client()
        assert setting.node.events.listeners == 1
        client.cancel()
        while setting.node.events.listeners:
            await asyncio.sleep(0.01)


async def test_a_slow_client_is_ended_and_the_others_hear_everything(tmp_path: Path) -> None:
    async with Setting(tmp_path, 50) as setting:
        slow, *others = [await setting.client() for _ in range(3)]
        stamps = []
        for _ in range(600):  # more than what the transport takes for a client that reads nothing
            stamps.append(setting.node.publish())
            for each in others:
                assert (await each.read()).created_at == stamps[-1]
        assert setting.node.events.cut_off == 1
        heard = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while True:
                event = await slow.read()
                assert event is not grpc.aio.EOF or await slow.code() is not grpc.StatusCode.OK
                heard.append(event.created_at)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "more than 50 events behind" in (caught.value.details() or "")
        assert heard == stamps[: len(heard)]


async def test_when_the_daemon_stops_clients_are_told(tmp_path: Path) -> None:
    async with Setting(tmp_path, 10) as setting:
        client = await setting.client()
        stamp = setting.node.publish()
        setting.node.events.close()
        assert (await client.read()).created_at == stamp
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
