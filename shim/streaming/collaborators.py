"""What the streaming server needs of the layers below, as protocols."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from typing import Any, Protocol

from shim.model.streams import StreamOptions


class Session(Protocol):
    """A running exec, or an attachment to a container.

    Descriptors do not block, belong to the session and are closed by ``close``; None where not asked for.
    With a terminal ``stdin`` and ``stdout`` are two descriptors of its master, and there is no ``stderr``.
    """

    stdin: int | None
    stdout: int | None
    stderr: int | None

    async def wait(self) -> int:
        """Wait for the end of the process; return its exit code."""

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, in characters."""

    async def close_stdin(self) -> None:
        """Take note that the client sends no more."""

    async def close(self) -> None:
        """Release everything; what an exec has started is ended. Idempotent."""


class Streams(Protocol):
    """Opens what clients ask for (``services.streams.NodeStreams``)."""

    def expect_exec(self, container_id: str, argv: tuple[str, ...], options: StreamOptions) -> Any:
        """Make ready what a client is about to run; return what ``exec`` gets then.

        What is not used soon is undone by itself.
        """

    async def exec(
        self, container_id: str, argv: tuple[str, ...], options: StreamOptions, ahead: Any = None
    ) -> Session:
        """Run a program in a container."""

    async def attach(self, container_id: str, options: StreamOptions) -> Session:
        """Attach to a container."""

    def expect_ports(self, sandbox_id: str) -> None:
        """Make ready for a client who is about to forward ports; undone by itself if he does not come."""

    def forwarding(self, sandbox_id: str) -> AbstractContextManager[None]:
        """Be ready within for connections to a pod."""

    async def dial(self, sandbox_id: str, port: int) -> socket.socket:
        """Connect to a port of a pod; the socket does not block."""


class Channel(Protocol):
    """One of several streams of bytes over one connection, whichever way they share it."""

    async def read(self) -> bytes:
        """Return what comes next; empty once the client has said that nothing more comes.

        Raises:
            ConnectionError: the client is gone, or has broken off this channel.
        """

    async def write(self, data: bytes) -> None:
        """Send; returns when there is room for more.

        Raises:
            ConnectionError: the client is gone, or has broken off this channel.
        """

    async def finish(self) -> None:
        """Tell the client that nothing more comes. Idempotent."""

    def ignore(self) -> None:
        """Drop what is here and what still comes, for others of the connection to get through. Idempotent."""
