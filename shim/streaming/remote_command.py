"""Exec and attach: bytes between the descriptors of a session and the channels of a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from shim.errors import ShimError
from shim.streaming import descriptors, subprotocols
from shim.streaming.collaborators import Channel, Session

_DRAIN_S: Final = 0.2  # how long output is awaited after the end, where children keep the pipe open


@dataclass(frozen=True, slots=True)
class Command:
    """The channels of one command; None where not asked for.

    Attributes:
        version: of the remote command protocol.
        tells_code: the error channel tells the exit code (exec) or only that it is over (attach).
    """

    version: int
    error: Channel
    stdin: Channel | None = None
    stdout: Channel | None = None
    stderr: Channel | None = None
    resize: Channel | None = None
    tells_code: bool = True

    def channels(self) -> list[Channel]:
        """Return all there are, the error channel last: its end is the end of all."""
        every = (self.stdout, self.stderr, self.stdin, self.resize, self.error)
        return [channel for channel in every if channel is not None]


async def serve(command: Command, open_session: Callable[[], Awaitable[Session]]) -> None:
    """Open a session, run it to its end, and tell the client how it ended.

    When the client goes away this is cancelled, and the session is closed.
    """
    try:
        session = await open_session()
    except (ShimError, OSError) as error:
        await command.error.write(subprotocols.failure_status(command.version, str(error)))
    else:
        try:
            code = await _run(command, session)
        finally:
            await session.close()
        told = code if command.tells_code else 0
        with contextlib.suppress(ConnectionError):
            if status := subprotocols.exit_status(command.version, told):
                await command.error.write(status)
    for channel in command.channels():
        with contextlib.suppress(ConnectionError):
            await channel.finish()


async def _run(command: Command, session: Session) -> int:
    inputs = [asyncio.ensure_future(each) for each in _inputs(command, session)]
    quiet = asyncio.Event()
    outputs = [
        asyncio.ensure_future(_output(fd, channel, quiet))
        for fd, channel in ((session.stdout, command.stdout), (session.stderr, command.stderr))
        if fd is not None and channel is not None
    ]
    ended = asyncio.ensure_future(session.wait())
    try:
        # An attachment of which only the input was asked for is over with that.
        only_input = not outputs and not command.tells_code
        await asyncio.wait([ended, *(inputs if only_input else ())], return_when=asyncio.FIRST_COMPLETED)
        quiet.set()
        if outputs:
            await asyncio.wait(outputs)
        return await ended if ended.done() else 0
    finally:
        for task in (*inputs, *outputs, ended):
            task.cancel()
        await asyncio.gather(*inputs, *outputs, ended, return_exceptions=True)


def _inputs(command: Command, session: Session) -> list[Awaitable[None]]:
    work: list[Awaitable[None]] = []
    if command.stdin is not None and session.stdin is not None:
        work.append(_input(session.stdin, command.stdin, session))
    if command.resize is not None:
        work.append(_sizes(command.resize, session))
    return work


async def _input(fd: int, channel: Channel, session: Session) -> None:
    """Copy to the end of either; what nobody reads is taken in all the same, for others to get through."""
    descriptors.enlarge(fd)
    wanted = True
    while data := await channel.read():
        wanted = wanted and await descriptors.write(fd, data)
    await session.close_stdin()


async def _output(fd: int, channel: Channel, ended: asyncio.Event) -> None:
    """Copy until nobody writes any more, or, after the end of the program, nothing comes for a moment."""
    descriptors.enlarge(fd)
    wanted = True
    while data := await _next(fd, ended):
        try:
            if wanted:
                await channel.write(data)
        except ConnectionError:
            wanted = False  # this channel alone: the program goes on, its other output too
    if wanted:
        with contextlib.suppress(ConnectionError):
            await channel.finish()


async def _next(fd: int, ended: asyncio.Event) -> bytes:
    reading = asyncio.ensure_future(descriptors.read(fd))
    over = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait((reading, over), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await asyncio.wait((reading,), timeout=_DRAIN_S)
        return reading.result() if reading.done() else b""
    finally:
        over.cancel()
        if reading.cancel():
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def _sizes(channel: Channel, session: Session) -> None:
    sizes = subprotocols.Sizes()
    while data := await channel.read():
        try:
            for width, height in sizes.feed(data):
                session.resize(width, height)
        except (ValueError, ShimError):
            while await channel.read():  # what follows cannot be told from it
                pass
