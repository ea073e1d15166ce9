"""Exec, Attach and PortForward: the CRI checks a request and answers with where its streams are."""

from __future__ import annotations

from typing import Protocol

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api.convert import check
from shim.model.streams import StreamOptions
from shim.services.containers.attach import check_attach
from shim.services.containers.exec import check_exec
from shim.services.node import Node
from shim.services.sandboxes.port_forward import check_port_forward


class StreamingServer(Protocol):
    """Hands out URLs, each good for one connection within a short time."""

    def exec_url(self, container_id: str, argv: tuple[str, ...], options: StreamOptions) -> str:
        """Return where a program's streams are; it is started by the connection."""

    def attach_url(self, container_id: str, options: StreamOptions) -> str:
        """Return where a container's streams are."""

    def port_forward_url(self, sandbox_id: str, ports: tuple[int, ...]) -> str:
        """Return where a sandbox's ports are; no ports: the streams name them."""


class Streaming:
    """The three methods.

    Args:
        node: where containers and sandboxes are.
        server: None: this daemon has none, and each method answers UNIMPLEMENTED.
    """

    def __init__(self, node: Node, server: StreamingServer | None) -> None:
        self._node = node
        self._server = server

    def exec(self, request: cri.ExecRequest) -> cri.ExecResponse:
        """Prepare an exec."""
        server = self._there()
        options = StreamOptions(request.stdin, request.stdout, request.stderr, request.tty)
        id_, argv = check.given(request.container_id, "container_id"), tuple(request.cmd)
        view = check_exec(self._node, id_, argv, options)
        return cri.ExecResponse(url=server.exec_url(view.spec.id, argv, options))

    def attach(self, request: cri.AttachRequest) -> cri.AttachResponse:
        """Prepare an attachment."""
        server = self._there()
        options = StreamOptions(request.stdin, request.stdout, request.stderr, request.tty)
        view = check_attach(self._node, check.given(request.container_id, "container_id"), options)
        return cri.AttachResponse(url=server.attach_url(view.spec.id, options))

    def port_forward(self, request: cri.PortForwardRequest) -> cri.PortForwardResponse:
        """Prepare connections to ports."""
        server = self._there()
        ports = tuple(request.port)
        view = check_port_forward(self._node, check.given(request.pod_sandbox_id, "pod_sandbox_id"), ports)
        return cri.PortForwardResponse(url=server.port_forward_url(view.spec.id, ports))

    def _there(self) -> StreamingServer:
        if self._server is None:
            raise errors.Unimplemented("this daemon has no streaming server")
        return self._server
