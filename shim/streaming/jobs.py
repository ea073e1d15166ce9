"""What a token stands for, and what comes of a request with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from shim.model.streams import StreamOptions
from shim.streaming.collaborators import Session, Streams
from shim.streaming.limits import Limits
from shim.streaming.wire import Tcp


@dataclass(frozen=True, slots=True)
class Exec:
    """Run a program in a container.

    Attributes:
        ahead: what was made ready for it (``Streams.expect_exec``).
    """

    KIND: ClassVar = "exec"
    container_id: str
    argv: tuple[str, ...]
    options: StreamOptions
    ahead: Any = None


@dataclass(frozen=True, slots=True)
class Attach:
    """Attach to a container."""

    KIND: ClassVar = "attach"
    container_id: str
    options: StreamOptions


@dataclass(frozen=True, slots=True)
class PortForward:
    """Connect to ports of a sandbox; no ports: the streams name them."""

    KIND: ClassVar = "portforward"
    sandbox_id: str
    ports: tuple[int, ...]


Command = Exec | Attach
Job = Exec | Attach | PortForward


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of an upgrade."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Agreed:
    """An upgrade.

    Attributes:
        headers: of the answer.
        serve: what is done then; it returns when all is done or the client is gone.
    """

    headers: tuple[tuple[str, str], ...]
    serve: Callable[[Tcp, Streams, Limits], Awaitable[None]]


async def open_session(job: Command, streams: Streams) -> Session:
    """Open what a command asks for."""
    if isinstance(job, Exec):
        return await streams.exec(job.container_id, job.argv, job.options, job.ahead)
    return await streams.attach(job.container_id, job.options)
