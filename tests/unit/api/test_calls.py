import logging

import pytest

from shim._proto import api_pb2 as cri
from shim.api import calls


def test_a_call_names_its_ids() -> None:
    request = cri.CreateContainerRequest(
        pod_sandbox_id="s1", config=cri.ContainerConfig(metadata=cri.ContainerMetadata(name="web"))
    )
    assert calls.describe("CreateContainer", request) == {
        "method": "CreateContainer",
        "sandbox": "s1",
        "name": "web",
    }


def test_a_pod_is_named_with_its_namespace() -> None:
    metadata = cri.PodSandboxMetadata(name="web", namespace="shop")
    request = cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(metadata=metadata))
    assert calls.describe("RunPodSandbox", request)["name"] == "shop/web"


def test_no_secret_of_a_pull_is_among_the_fields() -> None:
    request = cri.PullImageRequest(image=cri.ImageSpec(image="a/b"), auth=cri.AuthConfig(password="p4ss"))
    assert calls.describe("PullImage", request) == {"method": "PullImage", "image": "a/b"}


def test_requests_of_no_message_are_described_by_their_method() -> None:
    assert calls.describe("Load", object()) == {"method": "Load"}


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("RunPodSandbox", logging.INFO),
        ("StopContainer", logging.INFO),
        ("ListContainers", logging.DEBUG),
        ("ContainerStatus", logging.DEBUG),
        ("ExecSync", logging.DEBUG),
    ],
)
def test_what_a_kubelet_asks_all_the_time_is_not_logged_as_news(
    caplog: pytest.LogCaptureFixture, method: str, level: int
) -> None:
    with caplog.at_level(logging.DEBUG), calls.enter(method, object()):
        assert calls.current() == {"method": method}
    assert [record.levelno for record in caplog.records] == [level]
