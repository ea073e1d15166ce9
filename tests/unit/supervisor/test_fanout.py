"""Copies for attached clients, over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from shim.supervisor.fanout import MAX_WAITING_BYTES, Client, Fanout
from shim.supervisor.loop import Loop

CHUNK = b"x" * 65536


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def fanout(loop: Loop) -> Fanout:
    return Fanout(loop)


@pytest.fixture
def near() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


def add(fanout: Fanout, near: list[socket.socket]) -> socket.socket:
    ours, theirs = socket.socketpair()
    clients: list[Client] = []
    clients.append(fanout.add(theirs.detach(), lambda: clients[0].close()))
    near.append(ours)
    return ours


def take(loop: Loop, sock: socket.socket) -> bytes:
    """Read to the end, while the loop turns."""
    sock.setblocking(False)
    data = bytearray()
    while True:
        loop.turn(0)
        try:
            chunk = sock.recv(1 << 20)
        except BlockingIOError:
            continue
        if not chunk:
            return bytes(data)
        data += chunk


def test_every_client_gets_every_chunk_from_then_on(
    loop: Loop, fanout: Fanout, near: list[socket.socket]
) -> None:
    first = add(fanout, near)
    fanout.feed(b"one ")
    second = add(fanout, near)
    fanout.feed(b"two")
    fanout.finish()
    assert (take(loop, first), take(loop, second)) == (b"one two", b"two")
    assert len(fanout) == 0


def test_what_a_socket_does_not_take_comes_later(
    loop: Loop, fanout: Fanout, near: list[socket.socket]
) -> None:
    sock = add(fanout, near)
    assert fanout.pause_s == 0
    for _ in range(10):
        fanout.feed(CHUNK)
    assert fanout.pause_s == 0
    for _ in range(20):
        fanout.feed(CHUNK)
    assert 0 < fanout.pause_s < 0.01
    fanout.finish()
    assert len(fanout) == 1
    assert take(loop, sock) == CHUNK * 30
    assert len(fanout) == 0


def test_a_client_too_far_behind_is_cut_off_and_the_others_are_not(
    loop: Loop, fanout: Fanout, near: list[socket.socket]
) -> None:
    lazy, keen = add(fanout, near), add(fanout, near)
    keen.setblocking(False)
    got = 0
    chunks = 2 * MAX_WAITING_BYTES // len(CHUNK)
    for _ in range(chunks):
        fanout.feed(CHUNK)
        while got % len(CHUNK) or not got:
            loop.turn(0)
            got += len(keen.recv(1 << 20))
        loop.turn(0)
        while True:
            try:
                got += len(keen.recv(1 << 20))
            except BlockingIOError:
                break
    assert len(fanout) == 1
    assert len(take(loop, lazy)) < MAX_WAITING_BYTES
    fanout.finish()
    assert got + len(take(loop, keen)) == chunks * len(CHUNK)


def test_a_client_that_leaves_is_noticed_though_nothing_is_written(
    loop: Loop, fanout: Fanout, near: list[socket.socket]
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    add(fanout, near).close()
    loop.turn(0)
    assert len(fanout) == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_client_that_reads_no_more_is_dropped_at_the_next_chunk(
    loop: Loop, fanout: Fanout, near: list[socket.socket]
) -> None:
    sock, other = add(fanout, near), add(fanout, near)
    fanout.feed(b"before")
    sock.shutdown(socket.SHUT_RD)
    fanout.feed(b"after")
    assert len(fanout) == 1
    assert sock.recv(100) == b"before"
    assert sock.recv(100) == b""
    assert other.recv(100) == b"beforeafter"
