"""Answers of the kernel, cut out of what was received."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.network.attributes import attribute
from shim.network.netlink import Message, NetlinkSocket, parse_answers

HEADER = struct.Struct("=IHHII")
ERROR, DONE, NOOP = 2, 3, 1


def message(kind: int, sequence: int, body: bytes = b"", flags: int = 0) -> bytes:
    data = HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body
    return data + bytes(-len(data) % 4)


def test_errors_come_with_the_kernels_words() -> None:
    words = attribute(1, b"Unknown device type\0")
    body = struct.pack("=i", -95) + bytes(16) + words
    (answer,) = parse_answers(message(ERROR, 7, body, flags=0x300))
    assert (answer.errno, answer.sequence, answer.detail) == (95, 7, "Unknown device type")


def test_an_acknowledgement_is_errno_0_and_data_has_none() -> None:
    data = message(16, 1, b"abcd") + message(NOOP, 1) + message(ERROR, 1, bytes(20)) + message(DONE, 2)
    assert [(answer.type, answer.errno) for answer in parse_answers(data)] == [(16, None), (2, 0), (3, None)]


class Kernel:
    """A socket on whose other end lists change while they are given out."""

    def __init__(self, interrupted: int) -> None:
        self.interrupted = interrupted
        self.asked = 0
        self.waiting: list[bytes] = []

    def sendto(self, data: bytes, address: tuple[int, int]) -> None:
        self.asked += 1
        sequence = HEADER.unpack_from(data)[3]
        flags = 0x10 if self.asked <= self.interrupted else 0
        name = f"list{self.asked}".encode()
        self.waiting = [message(16, sequence, name, flags), message(DONE, sequence, bytes(4), flags)]

    def recv(self, size: int) -> bytes:
        return self.waiting.pop(0)


@pytest.mark.parametrize(("interrupted", "asked"), [(0, 1), (3, 4), (1000, 10)])
def test_a_list_that_changed_meanwhile_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, interrupted: int, asked: int
) -> None:
    kernel = Kernel(interrupted)
    with NetlinkSocket(0) as sock:
        monkeypatch.setattr(sock, "_socket", kernel)
        dump = Message("list", HEADER.pack(HEADER.size, 18, 0x301, 0, 0))
        (found,) = sock.request(dump)
        monkeypatch.undo()
    assert kernel.asked == asked
    assert found[HEADER.size :] == f"list{asked}".encode()


@given(st.binary(max_size=80))
def test_garbage_ends_quietly(data: bytes) -> None:
    assert sum(len(answer.data) for answer in parse_answers(data)) <= len(data)


def test_a_truncated_message_is_dropped() -> None:
    data = message(16, 1, b"abcd")
    assert len(list(parse_answers(data + data[:-1]))) == 1
