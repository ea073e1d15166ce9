"""Conversations with mistakes: valid bytes of a client, changed here and there, in pieces of any size.

``hack/fuzz-streams`` does it for minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from wsproto.connection import Connection as WebSocketConnection
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from shim.streaming import http, port_forward, spdy, spdy_frames, subprotocols
from shim.streaming.limits import Limits
from shim.streaming.spdy_channels import SpdyChannel, SpdyChannels
from shim.streaming.spdy_frames import Reset, Type
from shim.streaming.subprotocols import Framing
from shim.streaming.websocket_channels import WebSocketChannels
from shim.streaming.wire import WebSocket

LIMITS: Final = Limits(streams=8, frame_bytes=2000, message_bytes=2000, head_bytes=2000, streams_s=0.01)
KINDS: Final = ("error", "stdin", "stdout", "data", "resize", "x" * 50)
SIZE: Final = b'{"Width":80,"Height":24}'


def spdy_bytes(chance: random.Random) -> bytes:
    """Return what a client might say over SPDY."""
    client = spdy.Connection(server=False)
    numbers = [0, 1]
    out: list[bytes] = []
    for _ in range(chance.randrange(1, 25)):
        number, what = chance.choice(numbers), chance.randrange(9)
        if what < 3:
            headers = (("streamType", chance.choice(KINDS)), ("port", str(chance.choice((0, 1, 80, 99999)))))
            numbers.append(client.open((*headers, ("requestID", str(chance.randrange(3))))))
        elif what == 3 and client.is_open(number):
            client.send(number, chance.choice((b"", b"hello", SIZE, bytes(chance.randrange(5000)))))
        elif what == 4:
            client.finish(number)
        elif what == 5:
            client.reset(number, chance.choice(list(Reset)))
        elif what == 6:
            out.append(spdy_frames.control(chance.choice(list(Type)), chance.randbytes(chance.randrange(20))))
        elif what == 7:
            client.ping()
        else:
            client.acknowledge(number, 40_000)
        out += client.data_to_send()
    return b"".join(out)


def websocket_bytes(chance: random.Random) -> bytes:
    """Return what a client might say over WebSocket."""
    client = WebSocketConnection(ConnectionType.CLIENT)
    out = []
    for _ in range(chance.randrange(1, 12)):
        channel = bytes((chance.choice((0, 1, 4, 5, 255)),))
        data = chance.choice((b"", b"\0", SIZE, chance.randbytes(chance.randrange(3000))))
        event = chance.choice(
            (
                BytesMessage(channel + data),
                BytesMessage(channel + data, message_finished=False),
                TextMessage("0aGVsbG8="),
                Ping(b"x"),
            )
        )
        with contextlib.suppress(TypeError):  # text in the middle of bytes
            out.append(client.send(event))
    if chance.random() < 0.3:
        out.append(client.send(CloseConnection(1000)))
    return b"".join(out)


def http_bytes(chance: random.Random) -> bytes:
    """Return what a client might ask."""
    lines = [b"POST /exec/token HTTP/1.1", b"Host: x", b"Connection: Upgrade", b"Upgrade: SPDY/3.1"]
    lines += [b"X-A: " + b"a" * chance.randrange(800) for _ in range(chance.randrange(4))]
    return b"\r\n".join([*lines, b"", b""]) + chance.randbytes(chance.randrange(30))


def spoil(data: bytes, chance: random.Random) -> bytes:
    """Return it with some mistakes, or none."""
    spoilt = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        at = chance.randrange(len(spoilt) + 1)
        match chance.randrange(4):
            case 0:
                spoilt[at : at + 1] = chance.randbytes(1)
            case 1:
                del spoilt[at : at + chance.randrange(20)]
            case 2:
                spoilt[at:at] = chance.randbytes(chance.randrange(20))
            case _:
                spoilt[at:at] = spoilt[at : at + chance.randrange(100)]
    return bytes(spoilt)


def pieces(data: bytes, chance: random.Random) -> list[bytes]:
    """Return it cut at random."""
    found, at = [], 0
    while at < len(data):
        size = chance.choice((1, 3, 8, 100, 10_000))
        found.append(data[at : at + size])
        at += size
    return found


class Script:
    """A wire whose client says what was prepared, and then hangs up."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts
        self.sent_bytes = 0

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self._parts.pop(0) if self._parts else b""

    def push(self, parts: Sequence[bytes]) -> None:
        self.sent_bytes += sum(map(len, parts))

    async def drain(self) -> None:
        await asyncio.sleep(0)


def spdy_means_the_same(data: bytes, chance: random.Random) -> None:
    """Whole and in pieces: the same events, the same mistake."""
    seen = []
    for parts in ([data], pieces(data, chance)):
        server, events, mistake = spdy.Connection(limits=LIMITS), list[spdy.Event](), ""
        try:
            for part in parts:
                events += server.receive_data(part)
                assert len(server._partial) <= LIMITS.frame_bytes + spdy_frames.FRAME_BYTES
                assert len(server._streams) <= LIMITS.streams
        except spdy_frames.FrameError as error:
            mistake = str(error)
        streams: dict[int, bytes] = {}
        for event in events:
            if isinstance(event, spdy.Data):
                streams[event.stream] = streams.get(event.stream, b"") + event.data
        others = [event for event in events if not isinstance(event, spdy.Data)]
        seen.append((streams, others, mistake, b"".join(server.data_to_send())))
    if not seen[0][2]:  # with a mistake, what came in the same piece is lost with it
        assert seen[0] == seen[1]
    assert seen[0][2] == seen[1][2]


def spdy_channels_survive(data: bytes, chance: random.Random) -> None:
    """Port-forward over it: whatever is said, it ends, and leaves nothing."""

    async def run() -> None:
        async def dial(_: int) -> Any:
            raise ConnectionRefusedError(111, "connection refused")

        pairs = port_forward.Pairs(dial, LIMITS.streams_s)

        def opened(channel: SpdyChannel) -> None:
            if chance.random() < 0.2:
                channel.refuse()
            else:
                pairs.opened(channel)

        mux: Any = SpdyChannels(Script(pieces(data, chance)), LIMITS, opened)
        try:
            with contextlib.suppress(ValueError):
                await mux.run()
        finally:
            await pairs.close()
        assert mux._channels == {}
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def websocket_channels_survive(data: bytes, chance: random.Random) -> None:
    """A command's channels over it."""

    async def run() -> None:
        wire: Any = Script(pieces(data, chance))
        framing = chance.choice((Framing(1), Framing(4, base64=True), Framing(5)))
        mux = WebSocketChannels(WebSocket(wire, LIMITS.message_bytes), framing, range(5))
        sizes = subprotocols.Sizes()

        async def read(number: int) -> None:
            with contextlib.suppress(ConnectionError, ValueError):
                while part := await mux.channels[number].read():
                    if number == subprotocols.RESIZE:
                        sizes.feed(part)

        readers = [asyncio.ensure_future(read(number)) for number in (0, 4)]
        with contextlib.suppress(ValueError):
            await mux.run()
        await asyncio.wait_for(asyncio.gather(*readers), 5)

    asyncio.run(run())


def a_request_is_one_or_none(data: bytes, chance: random.Random) -> None:
    """Bytes of HTTP: a request, nothing yet, or a refusal that can be sent."""
    handshake = http.Handshake(LIMITS.head_bytes)
    refused = 0
    try:
        for part in pieces(data, chance):
            if (request := handshake.receive_data(part)) is not None:
                assert isinstance(request.target, str)
                handshake.trailing_data()
                return
    except http.BadRequest as error:
        refused = error.status
    assert not refused or (400 <= refused < 500 and handshake.refuse(refused, "why"))


CASES: Final[tuple[tuple[Callable[[random.Random], bytes], Callable[[bytes, random.Random], None]], ...]] = (
    (spdy_bytes, spdy_means_the_same),
    (spdy_bytes, spdy_channels_survive),
    (websocket_bytes, websocket_channels_survive),
    (http_bytes, a_request_is_one_or_none),
)


def run_case(case: int, seed: int) -> None:
    """Try one conversation; the same numbers mean the same one."""
    chance = random.Random(seed)  # noqa: S311
    make, check = CASES[case]
    check(spoil(make(chance), chance), chance)
