from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.streaming import subprotocols
from shim.streaming.subprotocols import Framing, Sizes


def test_the_best_that_both_know_is_chosen() -> None:
    assert subprotocols.choose(["channel.k8s.io", "v4.channel.k8s.io"], subprotocols.SPDY_COMMANDS) == (
        "v4.channel.k8s.io"
    )
    assert subprotocols.choose(["v9.channel.k8s.io"], subprotocols.SPDY_COMMANDS) is None


@given(st.integers(0, 4), st.binary(max_size=200), st.booleans())
def test_a_message_comes_back(channel: int, data: bytes, base64: bool) -> None:
    framing = Framing(4, base64=base64)
    message = subprotocols.encode_message(framing, channel, data)
    assert subprotocols.decode_message(framing, message) == (channel, data)


@pytest.mark.parametrize(
    ("framing", "message"),
    [
        (Framing(4), b""),
        (Framing(4, base64=True), "xYWJj"),
        (Framing(4, base64=True), "0?"),
    ],
)
def test_what_is_no_message_is_refused(framing: Framing, message: bytes | str) -> None:
    with pytest.raises(ValueError, match="message"):
        subprotocols.decode_message(framing, message)


def test_text_and_bytes_are_taken_for_each_other() -> None:
    assert subprotocols.decode_message(Framing(4), "\0ä") == (0, "ä".encode())
    assert subprotocols.decode_message(Framing(4, base64=True), b"0YWJj") == (0, b"abc")


def test_only_the_fifth_version_ends_channels() -> None:
    assert subprotocols.closed_channel(Framing(5), 255, b"\0") == 0
    assert subprotocols.closed_channel(Framing(5), 0, b"\0") is None
    assert subprotocols.closed_channel(Framing(4), 255, b"\0") is None
    for data in (b"", b"\0\1"):
        with pytest.raises(ValueError, match="ends a channel"):
            subprotocols.closed_channel(Framing(5), 255, data)


def test_an_exit_code_is_told_as_kubectl_reads_it() -> None:
    status = json.loads(subprotocols.exit_status(4, 7))
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    assert json.loads(subprotocols.exit_status(5, 0))["status"] == "Success"
    assert subprotocols.exit_status(1, 0) == b""
    assert b"7" in subprotocols.exit_status(1, 7)


def test_a_failure_is_told_too() -> None:
    assert json.loads(subprotocols.failure_status(4, "no such program"))["message"] == "no such program"
    assert subprotocols.failure_status(1, "no such program") == b"no such program"


@given(st.integers(1, 30))
def test_sizes_come_in_any_pieces(step: int) -> None:
    text = b'{"Width":80,"Height":24}\n{"Width":1,"Height":65535} '
    sizes, seen = Sizes(), []
    for at in range(0, len(text), step):
        seen += sizes.feed(text[at : at + step])
    assert seen == [(80, 24), (1, 65535)]


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense",
        b'{"Width":1}',
        b'{"Width":-1,"Height":1}',
        b'{"Width":true,"Height":1}',
        b"{" * 5000,
        b'{"Width":1,"Height":2}7',
        b"[1]",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
)
def test_what_is_no_size_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="resize"):
        Sizes().feed(text)
