from __future__ import annotations

import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.streaming import spdy, spdy_frames
from shim.streaming.limits import Limits
from shim.streaming.spdy import Accepted, Broken, Connection, Data, Finished, GoingAway, Opened, Room
from shim.streaming.spdy_frames import DEFAULT_WINDOW, FrameError, GoAway, Reset, Type

HEADERS = (("streamtype", "stdin"), ("port", "80"))


def flow(sender: Connection, receiver: Connection, *, step: int = 1 << 20) -> list[spdy.Event]:
    data = b"".join(sender.data_to_send())
    return [
        event for at in range(0, len(data), step) for event in receiver.receive_data(data[at : at + step])
    ]


@pytest.fixture
def ends() -> tuple[Connection, Connection]:
    return Connection(server=False), Connection(server=True)


def test_the_dictionary_is_the_one_of_the_specification() -> None:
    assert len(spdy_frames.DICTIONARY) == 1423
    assert zlib.adler32(spdy_frames.DICTIONARY) == 0xE3C6A7C2


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_stream_from_its_opening_to_its_end(ends: tuple[Connection, Connection], step: int) -> None:
    client, server = ends
    number = client.open(HEADERS)
    assert flow(client, server, step=step) == [Opened(number, HEADERS)]
    server.accept(number)
    assert flow(server, client, step=step) == [Accepted(number, ())]
    client.send(number, b"hello")
    client.finish(number)
    events = flow(client, server, step=step)
    assert b"".join(event.data for event in events if isinstance(event, Data)) == b"hello"
    assert events[-1] == Finished(number)
    server.send(number, b"x")
    server.finish(number)
    assert flow(server, client, step=step) == [Data(number, b"x"), Finished(number)]


def test_headers_of_many_streams_share_one_compression(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    numbers = [client.open((("requestid", str(n)),)) for n in range(20)]
    assert numbers == list(range(1, 41, 2))
    assert flow(client, server) == [Opened(2 * n + 1, (("requestid", str(n)),)) for n in range(20)]


def test_a_reset_ends_both_sides(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    number = client.open(HEADERS)
    flow(client, server)
    server.reset(number, Reset.REFUSED_STREAM)
    assert flow(server, client) == [Broken(number, Reset.REFUSED_STREAM)]
    assert client.room(number) == 0
    server.reset(number, Reset.REFUSED_STREAM)
    assert server.data_to_send() == []


def test_what_comes_for_a_stream_that_is_over_is_passed_over(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    number = client.open(HEADERS)
    flow(client, server)
    server.reset(number, Reset.CANCEL)
    client.send(number, b"late")
    other = client.open(HEADERS)
    assert flow(client, server) == [Opened(other, HEADERS)]


def test_a_ping_is_answered_and_an_answer_is_not(ends: tuple[Connection, Connection]) -> None:
    _, server = ends
    assert server.receive_data(spdy_frames.control(Type.PING, (1).to_bytes(4, "big"))) == []
    assert server.data_to_send() == [spdy_frames.control(Type.PING, (1).to_bytes(4, "big"))]
    server.receive_data(spdy_frames.control(Type.PING, (2).to_bytes(4, "big")))
    assert server.data_to_send() == []


def test_windows_bind_only_a_peer_that_keeps_them(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    number = client.open(HEADERS)
    flow(client, server)
    server.send(number, bytes(40_000))
    assert server.room(number) > DEFAULT_WINDOW
    flow(server, client)
    client.acknowledge(number, 40_000)
    assert flow(client, server) == [Room(number), Room(0)]
    assert server.room(number) == DEFAULT_WINDOW  # what was sent before counts
    server.send(number, bytes(DEFAULT_WINDOW))
    assert server.room(number) == 0


def test_whoever_sent_more_than_there_was_room_for_waits_until_there_is(
    ends: tuple[Connection, Connection],
) -> None:
    client, server = ends
    number = client.open(HEADERS)
    flow(client, server)
    server.send(number, bytes(200_000))
    flow(server, client)
    client.acknowledge(number, 100_000)
    flow(client, server)
    assert server.room(number) == 0
    client.acknowledge(number, 100_000)
    flow(client, server)
    assert server.room(number) == DEFAULT_WINDOW


def test_all_streams_share_a_window_too() -> None:
    client, server = Connection(server=False), Connection(windows_kept=True)
    one, other = client.open(HEADERS), client.open(HEADERS)
    flow(client, server)
    server.send(one, bytes(60_000))
    assert server.room(other) == DEFAULT_WINDOW - 60_000


def test_room_is_given_back_for_what_nobody_reads(ends: tuple[Connection, Connection]) -> None:
    """Else the window of all streams together would close for good."""
    client, server = Connection(server=False, windows_kept=True), ends[1]
    for _ in range(10):
        number = client.open(HEADERS)
        client.send(number, bytes(30_000))
        client.finish(number)
        flow(client, server)
        server.reset(number, Reset.CANCEL)
        server.acknowledge(number, 30_000)
        flow(server, client)
        late = client.open(HEADERS)
        flow(client, server)
        server.reset(late, Reset.CANCEL)
        client.send(late, bytes(5_000))
        flow(client, server)
        flow(server, client)
        assert client.room(client.open(HEADERS)) > DEFAULT_WINDOW // 2 - 1


def test_a_stream_that_is_broken_off_in_the_middle_of_a_frame_is_passed_over(
    ends: tuple[Connection, Connection],
) -> None:
    client, server = ends
    number = client.open(HEADERS)
    flow(client, server)
    frame = spdy_frames.data_header(number, 10, fin=True) + b"0123456789"
    assert server.receive_data(frame[:12]) == [Data(number, b"0123")]
    server.reset(number, Reset.CANCEL)
    assert server.receive_data(frame[12:]) == []


def test_a_stream_is_forgotten_when_both_have_ended_it(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    for _ in range(50):
        number = client.open(HEADERS)
        client.finish(number)
        flow(client, server)
        assert server.is_open(number)
        server.finish(number)
        flow(server, client)
        assert not server.is_open(number)
        assert not client.is_open(number)


def test_a_ping_of_ours_is_answered(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    server.ping()
    server.ping()
    assert flow(server, client) == []
    answers = [spdy_frames.control(Type.PING, number.to_bytes(4, "big")) for number in (2, 4)]
    assert client.data_to_send() == answers


def test_an_initial_window_counts_for_streams_that_are_open(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    number = client.open(HEADERS)
    flow(client, server)
    entry = bytes((0, 0, 0, spdy_frames.SETTINGS_INITIAL_WINDOW)) + (100).to_bytes(4, "big")
    server.receive_data(spdy_frames.control(Type.SETTINGS, (1).to_bytes(4, "big") + entry))
    assert server.room(number) == 100
    server.send(number, bytes(60))
    assert server.room(number) == 40


def test_more_streams_than_allowed_are_refused() -> None:
    client, server = Connection(server=False), Connection(server=True, limits=Limits(streams=2))
    numbers = [client.open(HEADERS) for _ in range(3)]
    assert [event.stream for event in flow(client, server) if isinstance(event, Opened)] == numbers[:2]
    assert flow(server, client) == [Broken(numbers[2], Reset.REFUSED_STREAM)]


def test_the_end_of_new_streams_is_told(ends: tuple[Connection, Connection]) -> None:
    client, server = ends
    server.go_away()
    server.go_away(GoAway.PROTOCOL_ERROR)
    assert flow(server, client) == [GoingAway(0), GoingAway(1)]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01", "version 2"),
        (b"\x80\x03\x00\x06\x00\x10\x00\x00", "bytes; 65536 are most"),
        (spdy_frames.control(Type.SYN_STREAM, b"\0\0\0\1"), "ends in the middle"),
        (spdy_frames.control(Type.SYN_STREAM, b"\0\0\0\1" + bytes(6) + b"rubbish"), "cannot be expanded"),
        (spdy_frames.control(Type.PING, b""), "0 bytes instead of 4"),
        (spdy_frames.control(Type.SETTINGS, b"\0\0\0\7"), "not the length"),
        (b"GET / HTTP/1.1\r\n\r\n" * 2, None),
    ],
)
def test_what_is_no_frame_ends_the_connection(frame: bytes, text: str | None) -> None:
    server = Connection(server=True)
    if text is None:  # read as data of a stream that there is not: passed over, without an event
        assert server.receive_data(frame) == []
    else:
        with pytest.raises(FrameError, match=text):
            server.receive_data(frame)


def test_headers_that_grow_beyond_the_limit_are_refused() -> None:
    writer = spdy_frames.HeaderWriter()
    block = writer.encode((("a", "x" * 500_000),))
    assert len(block) < 10_000
    with pytest.raises(FrameError, match="larger than"):
        Connection().receive_data(spdy_frames.control(Type.SYN_STREAM, b"\0\0\0\1" + bytes(6) + block))


def test_a_number_of_the_wrong_side_or_used_before_is_refused() -> None:
    for numbers in ((2,), (3, 1)):
        server, writer = Connection(server=True), spdy_frames.HeaderWriter()
        with pytest.raises(FrameError, match="with the number"):
            for number in numbers:
                payload = number.to_bytes(4, "big") + bytes(6) + writer.encode(HEADERS)
                server.receive_data(spdy_frames.control(Type.SYN_STREAM, payload))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=300), max_size=20))
def test_rubbish_is_refused_or_means_nothing(pieces: list[bytes]) -> None:
    server = Connection(server=True)
    try:
        for piece in pieces:
            server.receive_data(piece)
    except FrameError:
        return
    assert len(server._partial) <= sum(map(len, pieces))


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=8), st.integers(1, 4000))
def test_the_same_comes_out_whole_and_in_pieces(parts: list[bytes], step: int) -> None:
    seen = []
    for size in (1 << 20, step):
        client, server = Connection(server=False), Connection(server=True)
        number = client.open(HEADERS)
        for part in parts:
            client.send(number, part)
        client.finish(number)
        events = flow(client, server, step=size)
        data = b"".join(event.data for event in events if isinstance(event, Data))
        seen.append((data, [event for event in events if not isinstance(event, Data)]))
    assert seen[0] == seen[1]
    assert seen[0][0] == b"".join(parts)
