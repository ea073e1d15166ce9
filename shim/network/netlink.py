"""Requests to the kernel over netlink sockets: plain, blocking, one round trip for many messages.

``links``, ``nft`` and ``conntrack`` encode and decode the messages; this sends and receives (netlink(7)). The
kernel answers a request before send(2) returns, so that no call here waits, except for locks in the kernel.
"""

from __future__ import annotations

import errno as errnos
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from shim.errors import KernelError

REQUEST: Final = 0x1
ACK: Final = 0x4
REPLACE: Final = 0x100
EXCL: Final = 0x200
CREATE: Final = 0x400
APPEND: Final = 0x800
DUMP: Final = 0x300

_NLMSG_NOOP: Final = 1
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_F_DUMP_INTERRUPTED: Final = 0x10
_F_ACK_TLVS: Final = 0x200
_ATTR_MSG: Final = 1
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_HEADER: Final = struct.Struct("=IHHII")
_SEQUENCE_AT: Final = 8
_RECEIVE_BYTES: Final = 1 << 17
_TIMEOUT_S: Final = 10.0
_DUMP_TRIES: Final = 10


class NetlinkError(KernelError):
    """The kernel refused a netlink request; ``filename`` says which, with the kernel's words if any."""

    def __init__(self, what: str, errno: int, detail: str = "") -> None:
        super().__init__("netlink", errno, f"{what} ({detail})" if detail else what)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Message:
    """One encoded request; ``what`` says what it does, for errors. Sending sets its sequence number."""

    what: str
    data: bytes
    wants_ack: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """One message from the kernel, cut out.

    Attributes:
        errno: 0 for an acknowledgement, None for anything but an acknowledgement or error.
        data: the whole message with its header.
        interrupted: what is being listed has changed meanwhile: the list may have gaps, or things twice.
    """

    type: int
    sequence: int
    data: bytes
    errno: int | None = None
    detail: str = ""
    interrupted: bool = False


def parse_answers(data: bytes) -> Iterator[Answer]:
    """Cut what was received into messages; a truncated rest is dropped."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        piece = data[offset : offset + length]
        if kind == _NLMSG_ERROR and length >= _HEADER.size + 4:
            errno = -struct.unpack_from("=i", piece, _HEADER.size)[0]
            detail = _parse_detail(piece) if flags & _F_ACK_TLVS else ""
            yield Answer(kind, sequence, piece, errno, detail)
        elif kind != _NLMSG_NOOP:
            yield Answer(kind, sequence, piece, interrupted=bool(flags & _F_DUMP_INTERRUPTED))
        offset += (length + 3) & ~3


def _parse_detail(piece: bytes) -> str:
    """Return the text of an extended acknowledgement; the request is not echoed (NETLINK_CAP_ACK)."""
    offset = _HEADER.size + 4 + _HEADER.size
    while offset + 4 <= len(piece):
        length, kind = struct.unpack_from("=HH", piece, offset)
        if length < 4:
            return ""
        if kind == _ATTR_MSG:
            return piece[offset + 4 : offset + length].rstrip(b"\0").decode("utf-8", "replace")
        offset += (length + 3) & ~3
    return ""


class NetlinkSocket:
    """A netlink socket for one thread at a time.

    Args:
        protocol: NETLINK_ROUTE or NETLINK_NETFILTER.
        fd: an open socket to borrow (it is not closed here); a new one is made without it.
    """

    def __init__(self, protocol: int, fd: int | None = None) -> None:
        self._borrowed = fd is not None
        try:
            if fd is None:
                self._socket = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
                )
                self._socket.bind((0, 0))
            else:
                self._socket = socket.socket(fileno=fd)
        except OSError as error:
            raise NetlinkError("open a socket", error.errno or 0) from error
        self._sequence = 0
        self._data: list[bytes] = []
        try:
            self._socket.settimeout(_TIMEOUT_S)
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError as error:
            self.close()
            raise NetlinkError("set up a socket", error.errno or 0) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, or give a borrowed one back."""
        if self._borrowed:
            self._socket.settimeout(None)
            self._socket.detach()
        else:
            self._socket.close()

    def request(self, *messages: Message) -> list[bytes]:
        """Send messages in one go; the kernel carries them out in order, also after one that failed.

        Returns:
            The messages that the kernel sent besides acknowledgements.

        Raises:
            NetlinkError: the first message that failed.
        """
        errors = [error for error in self.try_request(*messages) if isinstance(error, NetlinkError)]
        if errors:
            raise errors[0]
        return self._data

    def try_request(self, *messages: Message) -> list[NetlinkError | None]:
        """Do as ``request``, but return each message's error, or None where it worked.

        A list that changed while the kernel gave it out is asked for again, a few times: on a node where it
        never stands still the last one must do.
        """
        results, interrupted = self._exchange(messages)
        for _ in range(_DUMP_TRIES - 1):
            if not interrupted or len(messages) > 1:  # a list is asked for alone
                break
            results, interrupted = self._exchange(messages)
        return results

    def _exchange(self, messages: tuple[Message, ...]) -> tuple[list[NetlinkError | None], bool]:
        """Return (each message's error or None, whether a list changed while it was given out)."""
        first = self._sequence + 1
        self._send(messages)
        results: list[NetlinkError | None] = [None] * len(messages)
        waiting = {first + i for i, message in enumerate(messages) if message.wants_ack}
        self._data = []
        interrupted = False
        while waiting:
            for answer in parse_answers(self._receive(messages)):
                if not first <= answer.sequence < first + len(messages):
                    continue  # the rest of an exchange that was given up
                interrupted = interrupted or answer.interrupted
                if answer.errno is None and answer.type != _NLMSG_DONE:
                    self._data.append(answer.data)
                    continue
                index = answer.sequence - first
                if answer.errno:
                    results[index] = NetlinkError(messages[index].what, answer.errno, answer.detail)
                    if not messages[index].wants_ack:
                        return results, False  # a batch as a whole was refused: nothing else is answered
                waiting.discard(answer.sequence)
        return results, interrupted

    def _send(self, messages: tuple[Message, ...]) -> None:
        buffer = bytearray()
        for message in messages:
            self._sequence += 1
            at = len(buffer)
            buffer += message.data
            struct.pack_into("=I", buffer, at + _SEQUENCE_AT, self._sequence)
            buffer += bytes(-len(buffer) % 4)
        try:
            self._socket.sendto(buffer, (0, 0))
        except OSError as error:
            raise NetlinkError(messages[0].what, error.errno or 0) from error

    def _receive(self, messages: tuple[Message, ...]) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise NetlinkError(
                messages[0].what, errnos.ETIMEDOUT, f"no answer in {_TIMEOUT_S:.0f} s"
            ) from error
        except OSError as error:
            raise NetlinkError(messages[0].what, error.errno or 0, os.strerror(error.errno or 0)) from error
