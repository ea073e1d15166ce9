"""Lists and streams of ten thousand objects; what is in them is checked in tests of the verbs."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from shim.api.image import ImageService
from shim.api.lists import CHUNK_BYTES, Lists
from shim.errors import ResourceExhausted
from shim.model.container import ContainerConfig, ContainerMetadata, ContainerSpec, ContainerStatus
from shim.model.image import Image, ImageConfig, ImageSpec, Platform
from shim.model.mount import Rootfs
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec, SandboxStatus
from shim.model.security import User
from shim.services.views import ContainerView, SandboxView

COUNT = 10_000
MAX_MESSAGE = 4 << 20  # what a client of gRPC takes unless it says otherwise

CONTAINER = ContainerSpec(
    id="c",
    sandbox_id="s",
    config=ContainerConfig(ContainerMetadata("app"), ImageSpec("example.com/app:1"), labels={"app": "web"}),
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
)
SANDBOX = SandboxSpec(
    id="s",
    config=SandboxConfig(SandboxMetadata("web", "u1", "default"), labels={"app": "web"}),
    handler="",
    created_at_ns=1,
    cgroup_driver="cgroupfs",
    cgroup_parent="/p",
    network="builtin",
)
IMAGE = Image("i", ("example.com/app:1",), (), (), (), 5, ImageConfig(), Platform("linux", "amd64"))


class Records:
    """So many containers and sandboxes."""

    def __init__(self, count: int) -> None:
        self.sandbox_changes = self.container_changes = 0
        self._containers = [
            ContainerView(dataclasses.replace(CONTAINER, id=f"{number:064x}"), ContainerStatus())
            for number in range(count)
        ]
        self._sandboxes = [
            SandboxView(dataclasses.replace(SANDBOX, id=f"{number:064x}"), SandboxStatus(ready_at_ns=1))
            for number in range(count)
        ]
        self.asked = 0

    def start_first(self) -> None:
        self._containers[0] = ContainerView(self._containers[0].spec, ContainerStatus(started_at_ns=1))
        self.container_changes += 1

    def containers(self) -> list[ContainerView]:
        self.asked += 1
        return self._containers

    def sandboxes(self) -> list[SandboxView]:
        self.asked += 1
        return self._sandboxes

    def resolve_container(self, prefix: str) -> str | None:
        return prefix

    resolve_sandbox = resolve_container


def node(count: int) -> Any:
    images = [dataclasses.replace(IMAGE, id=f"sha256:{number:064x}") for number in range(count)]
    store = SimpleNamespace(list=lambda: images)
    return SimpleNamespace(records=Records(count), making=set(), images=store)


async def read(stream: Any, kind: Any) -> tuple[list[Any], int]:
    """Return the messages of a stream, and the size of the largest."""
    chunks = [chunk async for chunk in stream]
    return [kind.FromString(chunk) for chunk in chunks], max(map(len, chunks))


@pytest.mark.parametrize(
    ("list_", "stream", "field"),
    [
        ("ListPodSandbox", "StreamPodSandboxes", ("items", "pod_sandboxes")),
        ("ListContainers", "StreamContainers", ("containers", "containers")),
        ("ListImages", "StreamImages", ("images", "images")),
    ],
)
async def test_a_stream_tells_the_same_as_the_list_in_messages_that_everybody_takes(
    list_: str, stream: str, field: tuple[str, str]
) -> None:
    servant: Any = (ImageService if "Image" in list_ else Lists)(node(COUNT))
    names = {
        "ListPodSandbox": "list_pod_sandbox",
        "ListContainers": "list_containers",
        "ListImages": "list_images",
        "StreamPodSandboxes": "stream_pod_sandboxes",
        "StreamContainers": "stream_containers",
        "StreamImages": "stream_images",
    }
    request, streamed = getattr(cri, f"{list_}Request")(), getattr(cri, f"{stream}Request")()
    whole = getattr(cri, f"{list_}Response").FromString(await getattr(servant, names[list_])(request, None))
    messages, largest = await read(
        getattr(servant, names[stream])(streamed, None), getattr(cri, f"{stream}Response")
    )
    assert len(messages) > 1
    assert CHUNK_BYTES <= largest < MAX_MESSAGE
    items = [item for message in messages for item in getattr(message, field[1])]
    assert len(items) == COUNT
    assert items == list(getattr(whole, field[0]))


async def test_a_stream_of_nothing_is_one_empty_message() -> None:
    messages, largest = await read(
        Lists(node(0)).stream_containers(cri.StreamContainersRequest(), None), cri.StreamContainersResponse
    )
    assert (messages, largest) == ([cri.StreamContainersResponse()], 0)


async def test_a_stream_can_be_filtered() -> None:
    wanted = cri.ContainerFilter(id=f"{7:064x}")
    messages, _ = await read(
        Lists(node(100)).stream_containers(cri.StreamContainersRequest(filter=wanted), None),
        cri.StreamContainersResponse,
    )
    assert [item.id for message in messages for item in message.containers] == [wanted.id]


async def test_as_long_as_nothing_changes_the_same_answer_is_given() -> None:
    there = node(3)
    lists = Lists(there)
    first = await lists.list_containers(cri.ListContainersRequest(), None)
    again = await lists.list_containers(cri.ListContainersRequest(filter=cri.ContainerFilter()), None)
    assert first is again
    assert there.records.asked == 1
    there.records.start_first()
    changed = cri.ListContainersResponse.FromString(
        await lists.list_containers(cri.ListContainersRequest(), None)
    )
    assert [item.state for item in changed.containers] == [
        cri.CONTAINER_RUNNING,
        cri.CONTAINER_CREATED,
        cri.CONTAINER_CREATED,
    ]


async def test_a_sandbox_that_is_not_being_made_any_more_is_listed() -> None:
    there = node(2)
    lists = Lists(there)
    first = there.records.sandboxes()[0]
    there.records._sandboxes[0] = SandboxView(first.spec, SandboxStatus())
    there.making.add(first.spec.id)

    async def count() -> int:
        answer = await lists.list_pod_sandbox(cri.ListPodSandboxRequest(), None)
        return len(cri.ListPodSandboxResponse.FromString(answer).items)

    assert await count() == 1
    there.making.clear()
    assert await count() == 2


def test_a_list_that_would_outgrow_a_message_takes_no_more() -> None:
    lists = Lists(node(10))
    lists.check_container(CONTAINER.config)
    lists.check_sandbox(SANDBOX.config)
    large = {"a": "x" * (15 << 20)}
    with pytest.raises(ResourceExhausted, match="list of containers"):
        lists.check_container(dataclasses.replace(CONTAINER.config, annotations=large))
    with pytest.raises(ResourceExhausted, match="list of sandboxes"):
        lists.check_sandbox(dataclasses.replace(SANDBOX.config, annotations=large))
