"""What client and server agree on: names of subprotocols, channels, and how an end is told. Pure.

Source: Kubernetes, apimachinery's remotecommand constants and kubelet's streaming server; kubectl reads them.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

PORT_FORWARD: Final = "portforward.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"

# Of remote commands over SPDY, the best first; a client that names none speaks the first of all.
SPDY_COMMANDS: Final = {
    "v5.channel.k8s.io": 5,
    "v4.channel.k8s.io": 4,
    "v3.channel.k8s.io": 3,
    "v2.channel.k8s.io": 2,
    "channel.k8s.io": 1,
}


@dataclass(frozen=True, slots=True)
class Framing:
    """How channels share a WebSocket.

    Attributes:
        version: of the remote command protocol: from 4 on the end is told as JSON, from 5 on channels end.
        base64: messages are text: a digit for the channel, then base64.
    """

    version: int = 1
    base64: bool = False


# Over WebSocket, the best first.
WEBSOCKET_COMMANDS: Final = {
    "v5.channel.k8s.io": Framing(5),
    "v4.channel.k8s.io": Framing(4),
    "v4.base64.channel.k8s.io": Framing(4, base64=True),
    "channel.k8s.io": Framing(1),
    "base64.channel.k8s.io": Framing(1, base64=True),
}
WEBSOCKET_PORTS: Final = {
    "v4.channel.k8s.io": Framing(4),
    "v4.base64.channel.k8s.io": Framing(4, base64=True),
}

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE_CHANNEL: Final = 255
_CLOSES: Final = 5  # the first version in which a client can end a channel


def choose(offered: Sequence[str], known: Iterable[str]) -> str | None:
    """Return the best name that both know; None if there is none."""
    return next((name for name in known if name in offered), None)


def encode_message(framing: Framing, channel: int, data: bytes) -> bytes | str:
    """Return a WebSocket message, text for base64."""
    if framing.base64:
        return f"{channel}{base64.b64encode(data).decode()}"
    return bytes((channel,)) + data


def decode_message(framing: Framing, message: bytes | str) -> tuple[int, bytes]:
    """Return (channel, data) of a WebSocket message.

    Text where binary was agreed on is its UTF-8, and the other way round: there are web pages that send it.

    Raises:
        ValueError: it is none.
    """
    if not message:
        raise ValueError("an empty message names no channel")
    raw = message.encode() if isinstance(message, str) else message
    if not framing.base64:
        return raw[0], raw[1:]
    if not raw[:1].isdigit():
        raise ValueError(f"a message begins with {raw[:1]!r} instead of a channel's number")
    try:
        return int(raw[:1]), base64.b64decode(raw[1:], validate=True)
    except binascii.Error:
        raise ValueError("a message is not base64") from None


def closed_channel(framing: Framing, channel: int, data: bytes) -> int | None:
    """Return the channel that a message ends, from version 5 on; None if it is a message like any other.

    Raises:
        ValueError: it does not name the one channel that it ends.
    """
    if channel != CLOSE_CHANNEL or framing.version < _CLOSES:
        return None
    if len(data) != 1:
        raise ValueError(f"a message that ends a channel has {len(data)} bytes instead of its number")
    return data[0]


def exit_status(version: int, code: int) -> bytes:
    """Return what the error channel tells of the end of a program."""
    if version < 4:
        return b"" if code == 0 else f"command terminated with exit code {code}".encode()
    if code == 0:
        return _status(status="Success")
    return _status(
        status="Failure",
        message=f"command terminated with non-zero exit code: {code}",
        reason="NonZeroExitCode",
        details={"causes": [{"reason": "ExitCode", "message": str(code)}]},
    )


def failure_status(version: int, message: str) -> bytes:
    """Return what the error channel tells of a failure of the runtime."""
    if version < 4:
        return message.encode()
    return _status(
        status="Failure",
        message=message,
        reason="InternalError",
        details={"causes": [{"message": message}]},
        code=500,
    )


def _status(**fields: object) -> bytes:
    return json.dumps({"metadata": {}, **fields}, separators=(",", ":")).encode()


class Sizes:
    """Terminal sizes from a stream of JSON objects such as ``{"Width":80,"Height":24}``, in any pieces."""

    _MOST: Final = 4096

    def __init__(self) -> None:
        self._text = ""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """Return the sizes that are complete now, as (width, height).

        Raises:
            ValueError: this is no such object.
        """
        self._text = (self._text + data.decode()).lstrip()
        sizes = []
        while self._text:
            try:
                value, end = self._decoder.raw_decode(self._text)
            except json.JSONDecodeError:
                if len(self._text) > self._MOST or not self._text.startswith("{"):
                    raise ValueError("a resize message is not JSON") from None
                break
            except RecursionError:
                raise ValueError("a resize message is nested too deeply") from None
            self._text = self._text[end:].lstrip()
            sizes.append((_dimension(value, "Width"), _dimension(value, "Height")))
        return sizes


def _dimension(value: object, name: str) -> int:
    found = value.get(name, value.get(name.lower())) if isinstance(value, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= 0xFFFF:
        raise ValueError(f"a resize message has no {name} from 0 to 65535")
    return found
