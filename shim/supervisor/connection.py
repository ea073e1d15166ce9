"""The daemon's connection to the supervisor: requests by number, answers as futures, in an asyncio loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shim.errors import Unavailable
from shim.kernel import unix
from shim.supervisor import fdstore, packets
from shim.supervisor.protocol import (
    MAX_BYTES,
    MAX_FDS,
    Child,
    Exited,
    Message,
    ProtocolError,
    Reply,
    decode,
    encode,
    error_of,
)

_PACKETS_IN_A_ROW: Final = 64


@dataclass(slots=True)
class Answer:
    """What came back for one request.

    Attributes:
        children: each with its descriptors by name, which belong to the asker.
    """

    reply: Reply | None = None
    children: list[tuple[Child, dict[str, int]]] = field(default_factory=list)


@dataclass(slots=True)
class _Asked:
    future: asyncio.Future[Answer]
    answer: Answer
    one_child: bool


class Connection:
    """One connection. It is used up when the peer is gone.

    Args:
        sock: connected, SOCK_SEQPACKET; owned from now on.
        on_exited: called with each hint.
        on_end: called once, when the peer is gone.
    """

    def __init__(
        self, sock: socket.socket, on_exited: Callable[[Exited], None], on_end: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_exited = on_exited
        self._on_end = on_end
        self._asked: dict[int, _Asked] = {}
        self._seqs = itertools.count(1)
        self._sending = asyncio.Lock()
        self.open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    async def ask(
        self, build: Callable[[int], Message], fds: Sequence[int] = (), *, one_child: bool = False
    ) -> Answer:
        """Send a request and return its answer; descriptors stay the caller's.

        Args:
            build: returns the request with the number it is given.
            fds: in the order of the request's names.
            one_child: the answer is a child without a reply.

        Raises:
            Unavailable: the supervisor is gone; the request may or may not have been carried out.
            ShimError, KernelError: what the supervisor answered.
        """
        if not self.open:
            raise Unavailable("the supervisor is gone; another is being started: try again")
        seq = next(self._seqs)
        asked = _Asked(self._loop.create_future(), Answer(), one_child)
        self._asked[seq] = asked
        try:
            await self._send(encode(build(seq)), fds)
            answer = await asked.future
        except BaseException:
            for _, named in asked.answer.children:
                fdstore.close_all(named.values())
            if asked.future.done() and not asked.future.cancelled():
                asked.future.exception()  # known already, where the sending has failed
            raise
        finally:
            self._asked.pop(seq, None)
        if answer.reply is not None and answer.reply.failure:
            raise error_of(answer.reply.failure)
        return answer

    def close(self) -> None:
        """End the connection; whoever waits gets Unavailable. Idempotent."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for asked in self._asked.values():
            if not asked.future.done():
                asked.future.set_exception(Unavailable("the supervisor is gone: try again"))
        self._on_end()

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        async with self._sending:
            while True:
                try:
                    unix.send_message(self._sock, data, fds)
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    self.close()
                    raise Unavailable(f"the supervisor is gone: {error.strerror}") from None
                else:
                    return

    async def _writable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        fd = self._sock.fileno()

        def writable() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_writer(fd, writable)
        try:
            await ready
        finally:
            if self.open:
                self._loop.remove_writer(fd)

    def _readable(self) -> None:
        for _ in range(_PACKETS_IN_A_ROW):
            try:
                data, fds = unix.recv_message(self._sock, MAX_BYTES, MAX_FDS)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                self.close()
                return
            if not data:
                self.close()
                return
            try:
                message = decode(data)
                named = fdstore.pair(packets.names_of(message), fds)
            except (ProtocolError, ValueError):
                self.close()
                return
            self._take(message, named)
            if not self.open:
                return

    def _take(self, message: Message, fds: dict[str, int]) -> None:
        if isinstance(message, Exited):
            self._on_exited(message)
            return
        asked = self._asked.get(getattr(message, "seq", 0))
        if asked is None or asked.future.done():
            for fd in fds.values():  # whoever asked has left
                os.close(fd)
            return
        if isinstance(message, Child):
            asked.answer.children.append((message, fds))
            if asked.one_child:
                asked.future.set_result(asked.answer)
        elif isinstance(message, Reply):
            asked.answer.reply = message
            asked.future.set_result(asked.answer)
