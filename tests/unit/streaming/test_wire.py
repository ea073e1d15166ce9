from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from shim.streaming.wire import Tunnel, WebSocket

MOST = 10_000


class Pieces:
    """What a client sends, in pieces of a size; and what it gets."""

    def __init__(self, data: bytes, step: int) -> None:
        self.pieces = [data[at : at + step] for at in range(0, len(data), step)]
        self.sent = b""

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def push(self, parts: Sequence[bytes]) -> None:
        self.sent += b"".join(parts)

    async def drain(self) -> None:
        pass


def encoded(*events: Event) -> bytes:
    client = Connection(ConnectionType.CLIENT)
    return b"".join(client.send(event) for event in events)


def answers(pieces: Pieces) -> list[Event]:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(pieces.sent)
    return list(client.events())


def received(data: bytes, step: int = 1 << 20) -> tuple[list[bytes | str], Pieces]:
    pieces: Any = Pieces(data, step)

    async def receive() -> list[bytes | str]:
        socket, messages = WebSocket(pieces, MOST), []
        while (message := await socket.receive()) is not None:
            messages.append(message)
        return messages

    return asyncio.run(receive()), pieces


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=100)), max_size=6), st.integers(1, 50))
def test_messages_come_whole_and_in_pieces(messages: list[bytes | str], step: int) -> None:
    events = [TextMessage(each) if isinstance(each, str) else BytesMessage(each) for each in messages]
    data = encoded(*events, CloseConnection(1000))
    whole, _ = received(data)
    assert whole == messages
    assert received(data, step)[0] == messages


def test_a_message_in_fragments_is_one() -> None:
    parts = (BytesMessage(b"a", message_finished=False), BytesMessage(b"b", message_finished=False))
    assert received(encoded(*parts, Ping(b"x"), BytesMessage(b"c")), 3)[0] == [b"abc"]


def test_a_ping_is_answered_and_a_close_too() -> None:
    _, pieces = received(encoded(Ping(b"alive?"), CloseConnection(1000, "bye")))
    pong, close = answers(pieces)
    assert isinstance(pong, Pong)
    assert bytes(pong.payload) == b"alive?"
    assert isinstance(close, CloseConnection)
    assert close.code == 1000


@pytest.mark.parametrize("fragments", [1, 4])
def test_a_message_that_is_too_long_is_told(fragments: int) -> None:
    part = bytes(MOST // fragments + 1)
    parts = [BytesMessage(part, message_finished=n == fragments - 1) for n in range(fragments)]
    pieces: Any = Pieces(encoded(*parts), 1000)
    with pytest.raises(ValueError, match="longer than"):
        asyncio.run(WebSocket(pieces, MOST).receive())
    (close,) = answers(pieces)
    assert isinstance(close, CloseConnection)
    assert close.code == 1009


def test_nothing_is_sent_after_the_end() -> None:
    async def run() -> None:
        pieces: Any = Pieces(b"", 1)
        socket = WebSocket(pieces, MOST)
        socket.close()
        before = pieces.sent
        socket.close()
        socket.ping()
        assert pieces.sent == before
        with pytest.raises(ConnectionError):
            socket.push(b"x")

    asyncio.run(run())


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=100), max_size=10), st.integers(1, 100))
def test_rubbish_is_refused_or_means_nothing(rubbish: list[bytes], step: int) -> None:
    with contextlib.suppress(ValueError):
        received(b"".join(rubbish), step)


def test_a_tunnel_is_bytes_wherever_messages_end() -> None:
    async def run(*events: Event) -> bytes:
        pieces: Any = Pieces(encoded(*events), 2)
        tunnel, data = Tunnel(WebSocket(pieces, MOST)), b""
        while part := await tunnel.read():
            data += part
        return data

    assert asyncio.run(run(BytesMessage(b"ab"), BytesMessage(b""), BytesMessage(b"c"))) == b"abc"
    with pytest.raises(ValueError, match="text"):
        asyncio.run(run(TextMessage("ab")))
