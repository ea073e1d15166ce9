"""One end of a SPDY/3.1 connection, without I/O: bytes in, events out; calls in, bytes out.

Flow control: kubectl, crictl and kubelet use a library that sends no WINDOW_UPDATE and heeds none. So the
peer's windows bind us only once it has shown that it keeps any (a WINDOW_UPDATE, or an initial size in
SETTINGS); what was sent before counts then. What we give back by ``acknowledge`` serves a peer that heeds it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from shim.streaming import spdy_frames as frames
from shim.streaming.limits import Limits
from shim.streaming.spdy_frames import FrameError, GoAway, Headers, Reset, Type

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

    status: int


Event = Opened | Accepted | Data | Finished | Broken | Room | GoingAway


@dataclass(slots=True)
class _Stream:
    sent_fin: bool = False
    got_fin: bool = False
    window: int = frames.DEFAULT_WINDOW
    used: int = 0  # bytes that the peer was not told of yet


@dataclass
class Connection:
    """One end.

    Args:
        server: the peer opens streams with odd numbers, we with even ones; else the other way round.
        limits: what the peer may ask for.
        windows_kept: the peer's windows bind us; else not until it shows that it keeps any.
    """

    server: bool = True
    limits: Limits = field(default_factory=Limits)
    windows_kept: bool = False
    _streams: dict[int, _Stream] = field(default_factory=dict)
    _partial: bytearray = field(default_factory=bytearray)
    _out: list[bytes] = field(default_factory=list)
    _events: deque[Event] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._reader = frames.HeaderReader(self.limits.frame_bytes)
        self._writer = frames.HeaderWriter()
        self._next = 2 if self.server else 1
        self._last_peer = 0
        self._pings = self._next
        self._wanted = frames.FRAME_BYTES  # of a header, or of a header with its control frame
        self._data_stream = self._data_left = 0
        self._data_fin = False
        self._initial_window = frames.DEFAULT_WINDOW
        self._whole = _Stream()  # what all streams share: a window of its own

    # ---- in

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes in; return what they mean.

        Raises:
            FrameError: the peer does not speak SPDY/3.1, or goes beyond a limit; the connection is over.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self._take_data(rest) if self._data_left else self._take_head(rest) :]
        events, self._events = list(self._events), deque()
        return events

    def _take_head(self, rest: memoryview) -> int:
        """Collect the header of a frame, and the whole of a control frame; return how much was taken."""
        part = rest[: self._wanted - len(self._partial)]
        self._partial += part
        if len(self._partial) < self._wanted:
            return len(part)
        first, second = frames.DATA_HEADER.unpack_from(self._partial)
        flags, length = second >> 24, second & frames.MAX_LENGTH
        if not first >> 31:
            self._next_frame()
            self._begin_data(first, flags, length)
        elif length > self.limits.frame_bytes:
            raise FrameError(f"a control frame has {length} bytes; {self.limits.frame_bytes} are most")
        elif len(self._partial) < frames.FRAME_BYTES + length:
            self._wanted += length
        else:
            payload = bytes(self._partial[frames.FRAME_BYTES :])
            self._next_frame()
            self._control(first, flags, payload)
        return len(part)

    def _next_frame(self) -> None:
        self._partial.clear()
        self._wanted = frames.FRAME_BYTES

    def _begin_data(self, stream: int, flags: int, length: int) -> None:
        self._data_stream, self._data_left = stream, length
        self._data_fin = bool(flags & frames.FLAG_FIN)
        if not length:
            self._end_data()

    def _take_data(self, rest: memoryview) -> int:
        part = rest[: self._data_left]
        self._data_left -= len(part)
        if self._receives(self._data_stream):
            self._events.append(Data(self._data_stream, bytes(part)))
        else:  # it was on its way when the stream ended
            self._give_back(_CONNECTION, len(part))
        if not self._data_left:
            self._end_data()
        return len(part)

    def _end_data(self) -> None:
        if self._data_fin and self._receives(self._data_stream):
            self._finish_of_peer(self._data_stream)

    def _receives(self, stream: int) -> bool:
        known = self._streams.get(stream)
        return known is not None and not known.got_fin

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
                _last, status = _words(payload, 2)
                self._events.append(GoingAway(status))
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
        if not self._receives(stream):
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
                self._initial_window, self.windows_kept = value, True
                self._events.append(Room(_CONNECTION))

    def _grow(self, stream: int, delta: int) -> None:
        self.windows_kept = True
        if stream == _CONNECTION:
            self._whole.window += delta
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
        payload = _pack(stream) + bytes(6) + self._writer.encode(headers)
        self._out.append(frames.control(Type.SYN_STREAM, payload))
        return stream

    def accept(self, stream: int, headers: Headers = ()) -> None:
        """Answer a stream that the peer opened."""
        payload = _pack(stream) + self._writer.encode(headers)
        self._out.append(frames.control(Type.SYN_REPLY, payload))

    def room(self, stream: int) -> int:
        """Return how many bytes may be sent on a stream now; 0 for one that is over."""
        known = self._streams.get(stream)
        if known is None or known.sent_fin:
            return 0
        return max(min(known.window, self._whole.window), 0) if self.windows_kept else frames.MAX_LENGTH

    def send(self, stream: int, data: bytes) -> None:
        """Send bytes; there must be ``room`` for them."""
        self._streams[stream].window -= len(data)
        self._whole.window -= len(data)
        self._out += (frames.data_header(stream, len(data)), data)

    def finish(self, stream: int) -> None:
        """Tell the peer that nothing more comes on a stream. Idempotent."""
        known = self._streams.get(stream)
        if known is not None and not known.sent_fin:
            known.sent_fin = True
            self._out.append(frames.data_header(stream, 0, fin=True))
            self._drop_if_over(stream, known)

    def acknowledge(self, stream: int, count: int) -> None:
        """Take note that ``count`` bytes of a stream were used up; the peer is told now and then."""
        if self._receives(stream):
            self._give_back(stream, count)
        self._give_back(_CONNECTION, count)

    def _give_back(self, stream: int, count: int) -> None:
        holder = self._whole if stream == _CONNECTION else self._streams[stream]
        holder.used += count
        if holder.used >= frames.DEFAULT_WINDOW // 2:
            self._out.append(frames.control(Type.WINDOW_UPDATE, _pack(stream, holder.used)))
            holder.used = 0

    def is_open(self, stream: int) -> bool:
        """Tell whether a stream is open in either direction."""
        return stream in self._streams

    def ping(self) -> None:
        """Ask the peer for a sign of life; its answer is no event."""
        self._out.append(frames.control(Type.PING, _pack(self._pings)))
        self._pings = (self._pings + 2) & frames.STREAM_MASK

    def reset(self, stream: int, status: Reset) -> None:
        """Break a stream off. Idempotent."""
        if self._streams.pop(stream, None) is not None:
            self._send_reset(stream, status)

    def go_away(self, status: GoAway = GoAway.OK) -> None:
        """Tell the peer that no new streams are accepted."""
        self._out.append(frames.control(Type.GOAWAY, _pack(self._last_peer, status)))

    def _send_reset(self, stream: int, status: Reset) -> None:
        self._out.append(frames.control(Type.RST_STREAM, _pack(stream, status)))

    def _drop_if_over(self, stream: int, known: _Stream) -> None:
        if known.sent_fin and known.got_fin:
            self._streams.pop(stream, None)


def _pack(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "big") for word in words)


def _words(payload: bytes, count: int, *, more: bool = False) -> tuple[int, ...]:
    if len(payload) < 4 * count or (len(payload) > 4 * count and not more):
        raise FrameError(f"a control frame has {len(payload)} bytes instead of {4 * count}")
    return tuple(int.from_bytes(payload[4 * n : 4 * n + 4], "big") for n in range(count))
