"""The HTTP/1.1 in front of a streaming connection, without I/O: one request head, one answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import h11


class BadRequest(Exception):
    """Bytes that are no HTTP request for streams.

    Attributes:
        status: of the answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asked.

    Attributes:
        headers: (lower-case name, value), in order.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """Return the values of a header, those of a list one by one."""
        found = [value for key, value in self.headers if key == name]
        return [part.strip() for value in found for part in value.split(",") if part.strip()]

    def has(self, name: str, token: str) -> bool:
        """Tell whether a header names a token, in any case."""
        return token.lower() in (value.lower() for value in self.values(name))


class Handshake:
    """The server's end of one request that is answered by an upgrade, or refused.

    Args:
        max_bytes: of the request.
    """

    def __init__(self, max_bytes: int) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=max_bytes)
        self._max_bytes, self._received_bytes = max_bytes, 0
        self._request: Request | None = None

    def receive_data(self, data: bytes) -> Request | None:
        """Take bytes in, empty for the end; return the request once it is complete.

        Raises:
            BadRequest: it is none, is too long, or has a body.
        """
        self._received_bytes += len(data)
        try:
            self._connection.receive_data(data)
            while (event := self._connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in event.headers)
                    self._request = Request(event.method.decode(), event.target.decode(), headers)
                    self._check_size()
                elif isinstance(event, h11.EndOfMessage):
                    return self._request
                else:
                    raise BadRequest("a request for streams has no body")
        except h11.RemoteProtocolError as error:
            raise BadRequest(str(error), error.error_status_hint) from None
        return None

    def _check_size(self) -> None:
        """h11 counts only what is not whole yet."""
        size = self._received_bytes - len(self.trailing_data())
        if size > self._max_bytes:
            raise BadRequest(f"a request has {size} bytes; {self._max_bytes} are most", 431)

    def upgrade(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """Return the answer 101 with these headers."""
        response = h11.InformationalResponse(
            status_code=101, headers=[*headers, ("Connection", "Upgrade")], reason=b"Switching Protocols"
        )
        return self._connection.send(response) or b""

    def trailing_data(self) -> bytes:
        """Return what came behind the request, for the protocol that was switched to."""
        return self._connection.trailing_data[0]

    def refuse(self, status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """Return a whole answer with a line of text."""
        body = text.encode() + b"\n"
        if self._connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        response = h11.Response(
            status_code=status,
            headers=[
                *headers,
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ],
        )
        parts = (response, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self._connection.send(part) or b"" for part in parts)
