"""What the streaming server needs of a node: sessions in containers, connections into pods."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager

from shim.model.streams import StreamOptions
from shim.services.containers.attach import Attachment, open_attachment
from shim.services.containers.exec import ExecAhead, ExecSession, expect_exec, open_exec
from shim.services.node import Node
from shim.services.sandboxes.port_forward import Dialer


class NodeStreams:
    """The streams of one node. Bytes go straight between a descriptor and whoever has asked for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._dialer = Dialer(node)

    def expect_exec(
        self, container_id: str, argv: tuple[str, ...], options: StreamOptions
    ) -> ExecAhead | None:
        """Make ready what a client is about to run (``containers.exec.expect_exec``)."""
        return expect_exec(self._node, container_id, argv, options)

    async def exec(
        self,
        container_id: str,
        argv: tuple[str, ...],
        options: StreamOptions,
        ahead: ExecAhead | None = None,
    ) -> ExecSession:
        """Run a program in a container (``containers.exec.open_exec``)."""
        return await open_exec(self._node, container_id, argv, options, ahead)

    async def attach(self, container_id: str, options: StreamOptions) -> Attachment:
        """Attach to a container (``containers.attach.open_attachment``)."""
        return await open_attachment(self._node, container_id, options)

    def expect_ports(self, sandbox_id: str) -> None:
        """Make ready for a client who is about to forward ports (``sandboxes.port_forward.Dialer``)."""
        self._dialer.expect(sandbox_id)

    def forwarding(self, sandbox_id: str) -> AbstractContextManager[None]:
        """Be ready within for connections to a pod (``sandboxes.port_forward.Dialer``)."""
        return self._dialer.session(sandbox_id)

    async def dial(self, sandbox_id: str, port: int) -> socket.socket:
        """Connect to a port of a pod (``sandboxes.port_forward.Dialer``)."""
        return await self._dialer.dial(sandbox_id, port)
