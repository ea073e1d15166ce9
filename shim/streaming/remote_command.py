"""Exec and attach: bytes between the descriptors of a session and the channels of a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
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
        try:
            code = await _run(command, session)
        finally:
            await session.close()
    except (ShimError, OSError) as error:
        told = subprotocols.failure_status(command.version, str(error))
    else:
        told = subprotocols.exit_status(command.version, code if command.tells_code else 0)
    with contextlib.suppress(ConnectionError):
        if told:
            await command.error.write(told)
    for channel in command.channels():
        with contextlib.suppress(ConnectionError):
            await channel.finish()


async def _run(command: Command, session: Session) -> int:
    inputs = [asyncio.ensure_future(each) for each in _inputs(command, session)]
    outputs = [
        _Output(fd, channel)
        for fd, channel in ((session.stdout, command.stdout), (session.stderr, command.stderr))
        if fd is not None and channel is not None
    ]
    ended = asyncio.ensure_future(session.wait())
    try:
        # An attachment of which only the input was asked for is over with that.
        only_input = not outputs and not command.tells_code
        await asyncio.wait([ended, *(inputs if only_input else ())], return_when=asyncio.FIRST_COMPLETED)
        await _drain(outputs)
        return await ended if ended.done() else 0
    finally:
        tasks = [ended, *inputs, *(output.task for output in outputs)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
        await asyncio.sleep(0)  # others have a turn, however much there is
    await session.close_stdin()


class _Output:
    """Copies what a session writes to a channel until nobody writes any more."""

    def __init__(self, fd: int, channel: Channel) -> None:
        self.moved_bytes = 0
        self._fd, self._channel = fd, channel
        self._reading = False
        self.task = asyncio.ensure_future(self._copy())

    @property
    def waits(self) -> bool:
        """Whether there is nothing to be read just now."""
        return self._reading and not descriptors.has_input(self._fd)

    async def _copy(self) -> None:
        descriptors.enlarge(self._fd)
        wanted = True
        while data := await self._read():
            self.moved_bytes += len(data)
            try:
                if wanted:
                    await self._channel.write(data)
            except ConnectionError:
                wanted = False  # this channel alone: the program goes on, its other output too
            await asyncio.sleep(0)  # others have a turn, however much there is
        if wanted:
            with contextlib.suppress(ConnectionError):
                await self._channel.finish()

    async def _read(self) -> bytes:
        self._reading = True
        try:
            return await descriptors.read(self._fd)
        finally:
            self._reading = False


async def _drain(outputs: Sequence[_Output]) -> None:
    """Return when all outputs have ended, or nothing comes for a moment from those that have not."""
    for output in outputs:
        while not output.task.done():
            moved = output.moved_bytes
            await asyncio.wait((output.task,), timeout=_DRAIN_S)
            if output.waits and output.moved_bytes == moved:
                break
        else:
            await output.task


async def _sizes(channel: Channel, session: Session) -> None:
    """Resize the terminal; a size that it cannot have is passed over, and so is all after what is no size."""
    sizes = subprotocols.Sizes()
    with contextlib.suppress(ValueError):
        while data := await channel.read():
            for width, height in sizes.feed(data):
                if width and height:
                    with contextlib.suppress(ShimError, OSError):
                        session.resize(width, height)
    while await channel.read():
        pass
