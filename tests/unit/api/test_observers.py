from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from shim.api import calls
from shim.api.observers import timeline_observer
from shim.errors import Unavailable
from shim.services.timeline import Timeline


class Nothing:
    """A node without objects."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.records = self

    def find_sandbox(self, _id: str) -> None:
        return None

    def now_ns(self) -> int:
        return 10**18


def request() -> cri.RunPodSandboxRequest:
    metadata = cri.PodSandboxMetadata(name="web", namespace="default")
    return cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(metadata=metadata))


def test_a_call_is_told_under_the_id_that_it_made() -> None:
    node: Any = Nothing()
    with calls.enter("RunPodSandbox", request(), (timeline_observer(node),)) as call:
        call.answer = cri.RunPodSandboxResponse(pod_sandbox_id="s1")
    assert [each.keys for each in node.timeline.find(["s1"])] == [("default/web", "s1")]


def test_a_failure_is_told_by_name() -> None:
    node: Any = Nothing()
    with pytest.raises(Unavailable), calls.enter("RunPodSandbox", request(), (timeline_observer(node),)):
        raise Unavailable("the supervisor is gone")
    (told,) = node.timeline.find(["default/web"])
    assert (told.ok, told.text) == (False, "the supervisor is gone")


def test_lists_are_not_told() -> None:
    node: Any = Nothing()
    with calls.enter("ListContainers", cri.ListContainersRequest(), (timeline_observer(node),)):
        pass
    assert node.timeline.matching(lambda _: True) == set()
