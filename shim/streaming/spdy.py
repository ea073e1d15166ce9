"""One end of a SPDY/3.1 connection, without I/O: bytes in, events out; calls in, bytes out.

Flow control: kubectl, crictl and kubelet use a library that sends no WINDOW_UPDATE and heeds none. So the
peer's windows bind us only once it has shown that it keeps any (a WINDOW_UPDATE, or an initial size in
SETTINGS); what we give back by ``acknowledge`` serves a peer that does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from shim.streaming import spdy_frames as frames
from shim.streaming.spdy_frames import FrameError, Headers, Reset, Type

_CONTROL_TYPES: Final = frozenset(Type)
_SETTING_BYTES: Final = 8
_CONNECTION: Final = 0  # WINDOW_UPDATE for it counts all streams together


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream; answer with ``accept`` or ``reset``."""

    stream: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Accepted:
    """The peer answered a stream of ours."""

    stream: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream, as they come: a frame may be many of these."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The peer sends no more on a stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Broken:
    """The peer broke a stream off."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Room:
    """A window grew: more may be sent on this stream, or with 0 on all."""

    stream: int


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The peer accepts no new streams."""


Event = Opened | Accepted | Data | Finished | Broken | Room | GoingAway


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may ask for.

    Attributes:
        streams: open at once.
        control_bytes: of a control frame, and of its expanded headers.
    """

    streams: int = 1024
    control_bytes: int = 64 * 1024


@dataclass(slots=True)
class _Stream:
    sent_fin: bool = False
    got_fin: bool = False
    window: int = frames.DEFAULT_WINDOW


@dataclass
class Connection:
    """One end.

    Args:
        server: the peer opens streams with odd numbers, we with even ones; else the other way round.
        limits: what the peer may ask for.
    """

    server: bool = True
    limits: Limits = Limits()
    _streams: dict[int, _Stream] = field(default_factory=dict)
    _received: bytearray = field(default_factory=bytearray)
    _out: list[bytes] = field(default_factory=list)
    _events: deque[Event] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._reader = frames.HeaderReader(self.limits.control_bytes)
        self._writer = frames.HeaderWriter()
        self._next = 2 if self.server else 1
        self._last_peer = 0
        self._data_stream = self._data_left = 0
        self._data_fin = False
        self._windows_kept = False
        self._window = self._initial_window = frames.DEFAULT_WINDOW

    # ---- in

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes in; return what they mean.

        Raises:
            FrameError: the peer does not speak SPDY/3.1, or goes beyond a limit; the connection is over.
        """
        self._received += data
        while self._step():
            pass
        events, self._events = list(self._events), deque()
        return events

    def _step(self) -> bool:
        """Use up a frame, or what there is of a data frame; return whether there was enough for anything."""
        if self._data_left:
            return self._take_data()
        if len(self._received) < frames.FRAME_BYTES:
            return False
        first, second = frames.DATA_HEADER.unpack_from(self._received)
        flags, length = second >> 24, second & frames.MAX_LENGTH
        if not first >> 31:
            del self._received[: frames.FRAME_BYTES]
            self._begin_data(first, flags, length)
            return True
        if length > self.limits.control_bytes:
            raise FrameError(f"a control frame has {length} bytes; {self.limits.control_bytes} are most")
        if len(self._received) < frames.FRAME_BYTES + length:
            return False
        payload = bytes(self._received[frames.FRAME_BYTES : frames.FRAME_BYTES + length])
        del self._received[: frames.FRAME_BYTES + length]
        self._control(first, flags, payload)
        return True

    def _begin_data(self, stream: int, flags: int, length: int) -> None:
        self._data_stream, self._data_left = stream, length
        self._data_fin = bool(flags & frames.FLAG_FIN)
        known = self._streams.get(stream)
        if known is None or known.got_fin:
            self._data_stream, self._data_fin = 0, False  # skipped: it was on its way when the stream ended
        if not length:
            self._end_data()

    def _take_data(self) -> bool:
        if not self._received:
            return False
        part = bytes(self._received[: self._data_left])
        del self._received[: len(part)]
        self._data_left -= len(part)
        if self._data_stream:
            self._events.append(Data(self._data_stream, part))
        if not self._data_left:
            self._end_data()
        return True

    def _end_data(self) -> None:
        if self._data_fin:
            self._finish_of_peer(self._data_stream)

    def _control(self, first: int, flags: int, payload: bytes) -> None:
        version, type_ = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != frames.VERSION:
            raise FrameError(f"a control frame is of version {version}; {frames.VERSION} is spoken here")
        if type_ not in _CONTROL_TYPES:
            return
        match Type(type_):
            case Type.SYN_STREAM:
                self._opened(flags, payload)
            case Type.SYN_REPLY | Type.HEADERS:
                self._headers(Type(type_), flags, payload)
            case Type.RST_STREAM:
                stream, status = _words(payload, 2)
                if self._streams.pop(stream & frames.STREAM_MASK, None) is not None:
                    self._events.append(Broken(stream & frames.STREAM_MASK, status))
            case Type.SETTINGS:
                self._settings(payload)
            case Type.PING:
                (number,) = _words(payload, 1)
                if number % 2 == (1 if self.server else 0):  # the other ones answer ours
                    self._out.append(frames.control(Type.PING, payload))
            case Type.GOAWAY:
                self._events.append(GoingAway())
            case Type.WINDOW_UPDATE:
                stream, delta = _words(payload, 2)
                self._grow(stream & frames.STREAM_MASK, delta & frames.STREAM_MASK)

    def _opened(self, flags: int, payload: bytes) -> None:
        stream = _words(payload, 1, more=True)[0] & frames.STREAM_MASK
        if len(payload) < 10:
            raise FrameError("a SYN_STREAM frame ends in the middle")
        headers = self._reader.decode(payload[10:])  # always: the compression goes on from block to block
        if stream % 2 != (1 if self.server else 0) or stream <= self._last_peer:
            raise FrameError(f"a stream is opened with the number {stream} after {self._last_peer}")
        self._last_peer = stream
        if len(self._streams) >= self.limits.streams:
            self._send_reset(stream, Reset.REFUSED_STREAM)
            return
        self._streams[stream] = _Stream(window=self._initial_window)
        if flags & frames.FLAG_UNIDIRECTIONAL:
            self._streams[stream].sent_fin = True
        self._events.append(Opened(stream, headers))
        if flags & frames.FLAG_FIN:
            self._finish_of_peer(stream)

    def _headers(self, type_: Type, flags: int, payload: bytes) -> None:
        stream = _words(payload, 1, more=True)[0] & frames.STREAM_MASK
        headers = self._reader.decode(payload[4:])
        if stream not in self._streams:
            return
        if type_ is Type.SYN_REPLY:
            self._events.append(Accepted(stream, headers))
        if flags & frames.FLAG_FIN:
            self._finish_of_peer(stream)

    def _settings(self, payload: bytes) -> None:
        (count,) = _words(payload, 1, more=True)
        if len(payload) != 4 + count * _SETTING_BYTES:
            raise FrameError("a SETTINGS frame has not the length it says")
        for at in range(4, len(payload), _SETTING_BYTES):
            name = int.from_bytes(payload[at + 1 : at + 4], "big")
            if name == frames.SETTINGS_INITIAL_WINDOW:
                value = int.from_bytes(payload[at + 4 : at + 8], "big") & frames.STREAM_MASK
                for stream in self._streams.values():
                    stream.window += value - self._initial_window
                self._initial_window, self._windows_kept = value, True
                self._events.append(Room(_CONNECTION))

    def _grow(self, stream: int, delta: int) -> None:
        self._windows_kept = True
        if stream == _CONNECTION:
            self._window += delta
        elif stream in self._streams:
            self._streams[stream].window += delta
        else:
            return
        self._events.append(Room(stream))

    def _finish_of_peer(self, stream: int) -> None:
        known = self._streams[stream]
        known.got_fin = True
        self._events.append(Finished(stream))
        self._drop_if_over(stream, known)

    # ---- out

    def data_to_send(self) -> list[bytes]:
        """Return what is to be sent, in order."""
        out, self._out = self._out, []
        return out

    def open(self, headers: Headers) -> int:
        """Open a stream; return its number."""
        stream, self._next = self._next, self._next + 2
        self._streams[stream] = _Stream(window=self._initial_window)
        payload = stream.to_bytes(4, "big") + bytes(6) + self._writer.encode(headers)
        self._out.append(frames.control(Type.SYN_STREAM, payload))
        return stream

    def accept(self, stream: int, headers: Headers = ()) -> None:
        """Answer a stream that the peer opened."""
        payload = stream.to_bytes(4, "big") + self._writer.encode(headers)
        self._out.append(frames.control(Type.SYN_REPLY, payload))

    def room(self, stream: int) -> int:
        """Return how many bytes may be sent on a stream now; 0 for one that is over."""
        known = self._streams.get(stream)
        if known is None or known.sent_fin:
            return 0
        return max(min(known.window, self._window), 0) if self._windows_kept else frames.MAX_LENGTH

    def send(self, stream: int, data: bytes) -> None:
        """Send bytes; there must be ``room`` for them."""
        known = self._streams[stream]
        if self._windows_kept:
            known.window -= len(data)
            self._window -= len(data)
        self._out += (frames.data_header(stream, len(data)), data)

    def finish(self, stream: int) -> None:
        """Tell the peer that nothing more comes on a stream. Idempotent."""
        known = self._streams.get(stream)
        if known is not None and not known.sent_fin:
            known.sent_fin = True
            self._out.append(frames.data_header(stream, 0, fin=True))
            self._drop_if_over(stream, known)

    def acknowledge(self, stream: int, count: int) -> None:
        """Tell the peer that ``count`` bytes of a stream were used up."""
        for number in (stream, _CONNECTION) if stream in self._streams else (_CONNECTION,):
            payload = number.to_bytes(4, "big") + count.to_bytes(4, "big")
            self._out.append(frames.control(Type.WINDOW_UPDATE, payload))

    def reset(self, stream: int, status: Reset) -> None:
        """Break a stream off. Idempotent."""
        if self._streams.pop(stream, None) is not None:
            self._send_reset(stream, status)

    def go_away(self) -> None:
        """Tell the peer that no new streams are accepted."""
        self._out.append(frames.control(Type.GOAWAY, self._last_peer.to_bytes(4, "big") + bytes(4)))

    def _send_reset(self, stream: int, status: Reset) -> None:
        self._out.append(
            frames.control(Type.RST_STREAM, stream.to_bytes(4, "big") + status.to_bytes(4, "big"))
        )

    def _drop_if_over(self, stream: int, known: _Stream) -> None:
        if known.sent_fin and known.got_fin:
            self._streams.pop(stream, None)


def _words(payload: bytes, count: int, *, more: bool = False) -> tuple[int, ...]:
    if len(payload) < 4 * count or (len(payload) > 4 * count and not more):
        raise FrameError(f"a control frame has {len(payload)} bytes instead of {4 * count}")
    return tuple(int.from_bytes(payload[4 * n : 4 * n + 4], "big") for n in range(count))
