"""Exec, Attach and PortForward up to the URL."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from shim.api.streaming import Streaming
from shim.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from shim.model.container import ContainerState
from shim.model.sandbox import SandboxState
from shim.model.streams import StreamOptions


class Urls:
    def exec_url(self, container_id: str, argv: tuple[str, ...], options: StreamOptions) -> str:
        return f"exec {container_id} {argv} {options}"

    def attach_url(self, container_id: str, options: StreamOptions) -> str:
        return f"attach {container_id} {options}"

    def port_forward_url(self, sandbox_id: str, ports: tuple[int, ...]) -> str:
        return f"forward {sandbox_id} {ports}"


class Records:
    def __init__(self) -> None:
        self.state = ContainerState.RUNNING
        self.sandbox_state = SandboxState.READY

    def container(self, prefix: str) -> Any:
        if not "whole-id".startswith(prefix):
            raise NotFound("container", prefix)
        spec = SimpleNamespace(id="whole-id", config=SimpleNamespace(tty=False))
        return SimpleNamespace(spec=spec, state=self.state)

    def sandbox(self, prefix: str) -> Any:
        return SimpleNamespace(spec=SimpleNamespace(id="whole-" + prefix), state=self.sandbox_state)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def streaming(records: Records) -> Streaming:
    return Streaming(SimpleNamespace(records=records), Urls())  # type: ignore[arg-type]


def test_urls_are_for_whole_ids(streaming: Streaming) -> None:
    options = StreamOptions(stdin=True, stdout=True, tty=True)
    request = cri.ExecRequest(container_id="whole", cmd=["a", "b"], stdin=True, stdout=True, tty=True)
    assert streaming.exec(request).url == f"exec whole-id ('a', 'b') {options}"
    attach = cri.AttachRequest(container_id="who", stderr=True)
    assert streaming.attach(attach).url == f"attach whole-id {StreamOptions(stderr=True)}"
    forward = cri.PortForwardRequest(pod_sandbox_id="pod", port=[80, 443])
    assert streaming.port_forward(forward).url == "forward whole-pod (80, 443)"
    assert streaming.port_forward(cri.PortForwardRequest(pod_sandbox_id="pod")).url == "forward whole-pod ()"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"container_id": "", "cmd": ["x"], "stdout": True}, InvalidArgument),
        ({"container_id": "whole", "cmd": [], "stdout": True}, InvalidArgument),
        ({"container_id": "whole", "cmd": ["x"]}, InvalidArgument),
        ({"container_id": "whole", "cmd": ["x"], "stderr": True, "tty": True}, InvalidArgument),
        ({"container_id": "nope", "cmd": ["x"], "stdout": True}, NotFound),
    ],
)
def test_bad_execs(streaming: Streaming, fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        streaming.exec(cri.ExecRequest(**fields))


def test_the_state_is_asked(streaming: Streaming, records: Records) -> None:
    records.state, records.sandbox_state = ContainerState.EXITED, SandboxState.NOTREADY
    with pytest.raises(FailedPrecondition):
        streaming.exec(cri.ExecRequest(container_id="whole", cmd=["x"], stdout=True))
    with pytest.raises(FailedPrecondition):
        streaming.attach(cri.AttachRequest(container_id="whole", stdout=True))
    with pytest.raises(FailedPrecondition):
        streaming.port_forward(cri.PortForwardRequest(pod_sandbox_id="pod"))


def test_a_terminal_must_be_there_to_be_attached_to(streaming: Streaming) -> None:
    with pytest.raises(InvalidArgument, match="no terminal"):
        streaming.attach(cri.AttachRequest(container_id="whole", stdout=True, tty=True))


def test_without_a_server_there_is_nothing(records: Records) -> None:
    none = Streaming(SimpleNamespace(records=records), None)  # type: ignore[arg-type]
    for call in (
        lambda: none.exec(cri.ExecRequest()),
        lambda: none.attach(cri.AttachRequest()),
        lambda: none.port_forward(cri.PortForwardRequest()),
    ):
        with pytest.raises(Unimplemented):
            call()
