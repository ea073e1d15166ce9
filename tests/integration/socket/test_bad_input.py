"""Bad requests: each gets a clear error of the right code, and leaves nothing behind."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.cgroups import systemd
from tests.integration.socket.conftest import PATIENCE_S

pytestmark = pytest.mark.root

Code = grpc.StatusCode
UNKNOWN_ID = "f" * 64


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


@pytest.fixture(autouse=True)
def nothing_left(daemon: Any) -> Any:
    before = daemon.remains()
    before.pop("fds")
    yield
    daemon.remove_all()
    after: dict[str, object] = {}
    deadline = time.monotonic() + PATIENCE_S
    while after != before and time.monotonic() < deadline:  # links go in the background
        after = daemon.remains()
        after.pop("fds")
    assert after == before


def change_metadata(config: cri.PodSandboxConfig, **fields: str) -> None:
    for name, value in fields.items():
        setattr(config.metadata, name, value)


PODS: dict[str, tuple[Callable[[cri.PodSandboxConfig], object], grpc.StatusCode, str]] = {
    "no metadata": (lambda c: c.ClearField("metadata"), Code.INVALID_ARGUMENT, "metadata"),
    "no name": (lambda c: change_metadata(c, name=""), Code.INVALID_ARGUMENT, "metadata.name"),
    "no uid": (lambda c: change_metadata(c, uid=""), Code.INVALID_ARGUMENT, "metadata.uid"),
    "cgroup above": (lambda c: setattr(c.linux, "cgroup_parent", "/a/../../b"), Code.INVALID_ARGUMENT, ".."),
    "a parent of the other driver": (
        lambda c: setattr(c.linux, "cgroup_parent", "/a" if systemd.is_init() else "a.slice"),
        Code.INVALID_ARGUMENT,
        "slice",
    ),
    "log above": (lambda c: setattr(c, "log_directory", "/tmp/../etc"), Code.INVALID_ARGUMENT, ".."),
    "huge labels": (lambda c: c.labels.update({"a": "x" * 10_000_000}), Code.INVALID_ARGUMENT, "labels"),
    "long host name": (lambda c: setattr(c, "hostname", "x" * 300), Code.INVALID_ARGUMENT, "hostname"),
    "no port": (
        lambda c: c.port_mappings.add(container_port=80, host_port=70000),
        Code.INVALID_ARGUMENT,
        "70000",
    ),
    "a sysctl of the node": (
        lambda c: c.linux.sysctls.update({"vm.swappiness": "1"}),
        Code.INVALID_ARGUMENT,
        "vm.swappiness",
    ),
    "no sysctl": (lambda c: c.linux.sysctls.update({"net.ipv4.nope": "1"}), Code.INVALID_ARGUMENT, "nope"),
}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_that_cannot_be(daemon: Any, name: str) -> None:
    spoil, code, word = PODS[name]
    config = daemon.pod_config()
    spoil(config)
    got, text = refusal(lambda: daemon.run_pod(config))
    assert (got, word in text) == (code, True), text


def test_an_unknown_handler(daemon: Any) -> None:
    request = cri.RunPodSandboxRequest(config=daemon.pod_config(), runtime_handler="nope")
    code, text = refusal(lambda: daemon.runtime.RunPodSandbox(request))
    assert code is Code.INVALID_ARGUMENT
    assert "'nope'" in text


def test_a_port_of_another_pod(daemon: Any) -> None:
    mapping = cri.PortMapping(container_port=80, host_port=18081)
    daemon.run_pod(daemon.pod_config(port_mappings=[mapping]))
    code, text = refusal(lambda: daemon.run_pod(daemon.pod_config(port_mappings=[mapping])))
    assert code is Code.ALREADY_EXISTS
    assert "18081" in text


def test_a_name_that_is_taken(daemon: Any) -> None:
    id_, config = daemon.run_pod()
    code, text = refusal(lambda: daemon.run_pod(config))
    assert code is Code.ALREADY_EXISTS
    assert id_ in text


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("PodSandboxStatus", "pod_sandbox_id"),
        ("StopPodSandbox", "pod_sandbox_id"),
        ("RemovePodSandbox", "pod_sandbox_id"),
        ("ContainerStatus", "container_id"),
        ("StartContainer", "container_id"),
        ("StopContainer", "container_id"),
        ("RemoveContainer", "container_id"),
        ("ExecSync", "container_id"),
        ("ReopenContainerLog", "container_id"),
        ("UpdateContainerResources", "container_id"),
        ("ContainerStats", "container_id"),
        ("PodSandboxStats", "pod_sandbox_id"),
    ],
)
def test_ids(daemon: Any, method: str, field: str) -> None:
    request, call = getattr(cri, f"{method}Request"), getattr(daemon.runtime, method)
    assert refusal(lambda: call(request()))[0] is Code.INVALID_ARGUMENT
    unknown = request(**{field: UNKNOWN_ID})
    if method == "ExecSync":
        unknown.cmd.append("true")
    if method.startswith(("Stop", "Remove")):
        call(unknown)  # idempotent
    else:
        assert refusal(lambda: call(unknown))[0] is Code.NOT_FOUND


CONTAINERS: dict[str, tuple[Callable[[cri.ContainerConfig], object], grpc.StatusCode, str]] = {
    "no metadata": (lambda c: c.ClearField("metadata"), Code.INVALID_ARGUMENT, "metadata"),
    "no image": (lambda c: setattr(c.image, "image", ""), Code.INVALID_ARGUMENT, "image"),
    "missing image": (lambda c: setattr(c.image, "image", "nope:1"), Code.NOT_FOUND, "nope"),
    "negative memory": (
        lambda c: setattr(c.linux.resources, "memory_limit_in_bytes", -5),
        Code.INVALID_ARGUMENT,
        "-5",
    ),
    "log above": (lambda c: setattr(c, "log_path", "../x"), Code.INVALID_ARGUMENT, ".."),
    "unknown user": (
        lambda c: setattr(c.linux.security_context, "run_as_username", "nobody-here"),
        Code.INVALID_ARGUMENT,
        "nobody-here",
    ),
    "uid out of range": (
        lambda c: setattr(c.linux.security_context.run_as_user, "value", 1 << 40),
        Code.INVALID_ARGUMENT,
        str(1 << 40),
    ),
    "unknown capability": (
        lambda c: c.linux.security_context.capabilities.add_capabilities.append("NOPE"),
        Code.INVALID_ARGUMENT,
        "NOPE",
    ),
    "privileged in a pod that is not": (
        lambda c: setattr(c.linux.security_context, "privileged", True),
        Code.INVALID_ARGUMENT,
        "no privileged container",
    ),
    "an image as a volume to write to": (
        lambda c: c.mounts.add(container_path="/x", image=cri.ImageSpec(image="y")),
        Code.INVALID_ARGUMENT,
        "ImageVolumeMountFailed",
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_that_cannot_be(daemon: Any, name: str) -> None:
    spoil, code, word = CONTAINERS[name]
    config = daemon.container_config()
    spoil(config)
    got, text = refusal(lambda: daemon.create(daemon.run_pod(), config))
    assert (got, word in text) == (code, True), text


def test_a_container_in_no_pod_and_in_a_stopped_one(daemon: Any) -> None:
    pod = daemon.run_pod()
    assert (
        refusal(lambda: daemon.create((UNKNOWN_ID, pod[1]), daemon.container_config()))[0] is Code.NOT_FOUND
    )
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod[0]))
    assert refusal(lambda: daemon.create(pod, daemon.container_config()))[0] is Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("nope", 'exec: "nope": executable file not found in $PATH'),
        ("/no/pe", 'exec: "/no/pe": no such file or directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_program_that_cannot_run(daemon: Any, program: str, words: str) -> None:
    pod = daemon.run_pod()
    id_ = daemon.create(pod, daemon.container_config(program))
    code, text = refusal(lambda: daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_)))
    assert (code, text) == (Code.FAILED_PRECONDITION, f"{words} (stage: process)")
    status = daemon.status(id_)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 128, "StartError")
    assert words in status.message


def test_a_registry_that_does_not_answer(daemon: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{free.getsockname()[1]}/x:1"
    request = cri.PullImageRequest(image=cri.ImageSpec(image=name))
    code, text = refusal(lambda: daemon.images.PullImage(request))
    assert code is Code.UNKNOWN
    assert text.startswith("RegistryUnavailable")
    for bad in ("", "UPPER/x:y:z"):
        request = cri.PullImageRequest(image=cri.ImageSpec(image=bad))
        assert refusal(lambda request=request: daemon.images.PullImage(request))[0] is Code.INVALID_ARGUMENT


def test_streams_that_make_no_sense_are_refused(daemon: Any) -> None:
    runtime = daemon.runtime
    unknown = cri.ExecRequest(container_id="0123456789ab", cmd=["true"], stdout=True)
    assert refusal(lambda: runtime.Exec(unknown))[0] is Code.NOT_FOUND
    assert refusal(lambda: runtime.Exec(cri.ExecRequest(container_id="x")))[0] is Code.INVALID_ARGUMENT
    assert refusal(lambda: runtime.Attach(cri.AttachRequest(stdout=True)))[0] is Code.INVALID_ARGUMENT
    nowhere = cri.PortForwardRequest(pod_sandbox_id="0123456789ab", port=[80])
    assert refusal(lambda: runtime.PortForward(nowhere))[0] is Code.NOT_FOUND
