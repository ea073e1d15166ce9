"""What a client may ask of the streaming server, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection, and how many there may be.

    Attributes:
        connections: at once, whether they have asked for something yet or not.
        streams: open at once in a SPDY connection; a forwarded connection takes two.
        head_bytes: of an HTTP request.
        frame_bytes: of a SPDY control frame, and of its headers when they are expanded.
        message_bytes: of a WebSocket message.
        head_s: within which a request must have come.
        streams_s: within which a client must have opened the streams that belong together.
        still_s: a forwarded connection whose pod has taken nothing for so long, though its inbox is full, is
            broken off if it holds up others of its client.
        idle_s: a connection on which nothing moves for so long is closed.
    """

    connections: int = 1024
    streams: int = 1024
    head_bytes: int = 16 * 1024
    frame_bytes: int = 64 * 1024
    message_bytes: int = 1024 * 1024
    head_s: float = 10.0
    streams_s: float = 30.0
    still_s: float = 30.0
    idle_s: float = 4 * 3600.0
