from __future__ import annotations

import pytest

from shim.streaming.http import BadRequest, Handshake

MOST = 4096
HEAD = (
    b"POST /exec/t HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: channel.k8s.io\r\n\r\n"
)


@pytest.mark.parametrize("step", [1, 13, 4096])
def test_a_request_is_taken_in_whole_and_in_pieces(step: int) -> None:
    handshake = Handshake(MOST)
    found = [handshake.receive_data(HEAD[at : at + step]) for at in range(0, len(HEAD), step)]
    request = found[-1]
    assert request is not None
    assert (request.method, request.target) == ("POST", "/exec/t")
    assert request.has("connection", "upgrade")
    assert request.values("x-stream-protocol-version") == ["v4.channel.k8s.io", "channel.k8s.io"]


def test_an_upgrade_leaves_what_came_behind() -> None:
    handshake = Handshake(MOST)
    assert handshake.receive_data(HEAD + b"\x80\x03rest") is not None
    answer = handshake.upgrade((("Upgrade", "SPDY/3.1"),))
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"Upgrade: SPDY/3.1\r\n" in answer
    assert handshake.trailing_data() == b"\x80\x03rest"


def test_a_refusal_is_a_whole_answer() -> None:
    handshake = Handshake(MOST)
    handshake.receive_data(HEAD)
    answer = handshake.refuse(404, "nothing here")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\nnothing here\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01rubbish\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * (2 * MOST),
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    handshake = Handshake(MOST)
    with pytest.raises(BadRequest):
        handshake.receive_data(data)
    assert handshake.refuse(400, "bad").startswith(b"HTTP/1.1 400 ")


def test_a_head_that_is_too_large_has_a_status_of_its_own() -> None:
    with pytest.raises(BadRequest) as caught:
        Handshake(MOST).receive_data(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * (2 * MOST))
    assert caught.value.status == 431
