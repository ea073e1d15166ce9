"""Fields of the Linux parts of a pod and of a container that cannot be what they are (``bad_fields``).

The code is right, the sentence names the field, and nothing is left behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.socket.bad_fields import CONTAINERS, INVALID, PODS, PRECONDITION, Bad, resources
from tests.integration.socket.conftest import PATIENCE_S

pytestmark = pytest.mark.root


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def settled(daemon: Any, before: dict[str, object]) -> None:
    """Wait until nothing is there that was not before: links go in the background."""
    deadline = time.monotonic() + PATIENCE_S
    while (after := what_is(daemon)) != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert after == before


def what_is(daemon: Any) -> dict[str, object]:
    remains = daemon.remains()
    del remains["fds"]
    return dict(remains)


@pytest.fixture(scope="module")
def empty(daemon: Any) -> dict[str, object]:
    return what_is(daemon)


@pytest.fixture(scope="module")
def pod(daemon: Any, empty: dict[str, object]) -> tuple[str, cri.PodSandboxConfig]:
    return daemon.run_pod()


@pytest.fixture(autouse=True)
def no_pods_left() -> None:
    """Not after each test: all containers of this module are refused in one pod."""


@pytest.mark.parametrize("field", sorted({each.field for each in PODS}))
def test_no_pod_with_a_bad(daemon: Any, empty: dict[str, object], field: str) -> None:
    for bad in PODS:
        if bad.field != field:
            continue
        config = daemon.pod_config()
        bad.spoil(config)
        code, text = refusal(lambda config=config: daemon.run_pod(config))
        assert (code, [word for word in bad.words if word not in text]) == (bad.code, []), (str(bad), text)
    assert not daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
    settled(daemon, empty)


@pytest.fixture(scope="module")
def alone(daemon: Any, pod: tuple[str, cri.PodSandboxConfig]) -> dict[str, object]:
    return what_is(daemon)


@pytest.mark.parametrize("field", sorted({each.field for each in CONTAINERS}))
def test_no_container_with_a_bad(
    daemon: Any, pod: tuple[str, cri.PodSandboxConfig], alone: dict[str, object], field: str
) -> None:
    for bad in CONTAINERS:
        if bad.field == field:
            refuse(daemon, pod, bad)
    assert not daemon.runtime.ListContainers(cri.ListContainersRequest()).containers
    assert os.listdir(daemon.root / "images/snapshots") == []
    settled(daemon, alone)


def refuse(daemon: Any, pod: tuple[str, cri.PodSandboxConfig], bad: Bad) -> None:
    config = daemon.container_config()
    bad.spoil(config)
    if not bad.at_start:
        code, text = refusal(lambda: daemon.create(pod, config))
    else:
        id_ = daemon.create(pod, config)
        code, text = refusal(
            lambda: daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
        )
        status = daemon.status(id_)
        assert (status.state, status.reason) == (cri.CONTAINER_EXITED, "StartError")
        assert status.message
        assert text.startswith(status.message)
        daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=id_))
    assert (code, [word for word in bad.words if word not in text]) == (bad.code, []), (str(bad), text)


def test_no_update_with_a_bad_limit(daemon: Any, pod: tuple[str, cri.PodSandboxConfig]) -> None:
    id_ = daemon.run(pod)
    before = daemon.status(id_).resources
    container, sandbox = cri.ContainerConfig(), cri.PodSandboxConfig()
    tried = 0
    for bad in resources("resources", pod=False):
        container.Clear()
        bad.spoil(container)
        request = cri.UpdateContainerResourcesRequest(container_id=id_, linux=container.linux.resources)
        code, text = refusal(lambda request=request: daemon.runtime.UpdateContainerResources(request))
        words = [word.removeprefix("resources.") for word in bad.words]
        assert (code, [word for word in words if word not in text]) == (bad.code, []), (str(bad), text)
        tried += 1
    for bad in resources("resources", pod=True):
        sandbox.Clear()
        bad.spoil(sandbox)
        update = cri.UpdatePodSandboxResourcesRequest(
            pod_sandbox_id=pod[0], resources=sandbox.linux.resources
        )
        code, text = refusal(lambda update=update: daemon.runtime.UpdatePodSandboxResources(update))
        assert (code, [word for word in bad.words if word not in text]) == (bad.code, []), (str(bad), text)
        tried += 1
    assert tried > 60
    assert daemon.status(id_).resources == before
    daemon.stop(id_)
    daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=id_))


def test_a_target_of_another_pod_or_one_that_does_not_run(
    daemon: Any, pod: tuple[str, cri.PodSandboxConfig]
) -> None:
    other = daemon.run_pod()
    target = daemon.run(other)

    def aimed() -> cri.ContainerConfig:
        config = daemon.container_config()
        options = config.linux.security_context.namespace_options
        options.pid, options.target_id = cri.TARGET, target
        return config

    assert refusal(lambda: daemon.create(pod, aimed()))[0] is INVALID
    seen = daemon.run(other, config=aimed())
    assert daemon.exec(seen, "cat", "/proc/1/cmdline") == daemon.exec(target, "cat", "/proc/1/cmdline")
    daemon.stop(target)
    code, text = refusal(lambda: daemon.create(other, aimed()))
    assert (code, "CONTAINER_EXITED" in text or "EXITED" in text) == (PRECONDITION, True), text
    daemon.remove(other[0])
