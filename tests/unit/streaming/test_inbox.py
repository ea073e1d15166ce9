from __future__ import annotations

import asyncio

import pytest

from shim.streaming import inbox
from shim.streaming.inbox import MOST_BYTES, MOST_BYTES_OF_ALL, Inbox, Intake


async def test_what_comes_is_taken_as_one_and_told() -> None:
    used: list[int] = []
    box = Inbox(Intake(), used.append)
    box.put(b"a")
    box.put(b"bc")
    box.end()
    assert await box.take() == b"abc"
    assert await box.take() == b""
    assert used == [3]


async def test_whoever_waits_is_woken() -> None:
    box = Inbox(Intake())
    taking = asyncio.ensure_future(box.take())
    await asyncio.sleep(0)
    box.put(b"x")
    assert await taking == b"x"


async def test_what_is_broken_off_is_void() -> None:
    used: list[int] = []
    box = Inbox(Intake(), used.append)
    box.put(b"abc")
    box.break_off()
    box.put(b"de")
    assert used == [3, 2]
    with pytest.raises(ConnectionError):
        await box.take()


async def test_what_nobody_reads_is_used_at_once() -> None:
    intake, used = Intake(), list[int]()
    box = Inbox(intake, used.append)
    box.ignore()
    for _ in range(3):
        box.put(bytes(MOST_BYTES))
    assert used == [MOST_BYTES] * 3
    assert not intake.crowded


async def test_one_channel_with_too_much_crowds_a_connection() -> None:
    intake = Intake()
    one, other = Inbox(intake), Inbox(intake)
    one.put(bytes(MOST_BYTES))
    other.put(b"x")
    assert not intake.crowded
    one.put(b"x")
    assert intake.crowded
    await other.take()
    assert intake.crowded
    await one.take()
    assert not intake.crowded


async def test_many_channels_crowd_a_connection_together() -> None:
    intake = Intake()
    boxes = [Inbox(intake) for _ in range(MOST_BYTES_OF_ALL // MOST_BYTES + 1)]
    for box in boxes:
        box.put(bytes(MOST_BYTES))
    assert intake.crowded
    boxes[0].break_off()
    assert not intake.crowded


async def test_whoever_waits_for_room_looks_for_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "_PROBE_S", 0.01)
    intake, probes = Intake(), 0
    box = Inbox(intake)
    box.put(bytes(MOST_BYTES + 1))

    def probe() -> None:
        nonlocal probes
        probes += 1
        if probes == 3:
            box.ignore()

    await intake.room(probe)
    assert probes == 3
    box = Inbox(intake)
    box.put(bytes(MOST_BYTES + 1))

    def gone() -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionError):
        await intake.room(gone)


async def test_an_inbox_stands_still_only_when_it_is_full() -> None:
    box = Inbox(Intake())
    box.put(bytes(MOST_BYTES))
    assert box.still_s == 0
    box.put(b"x")
    await asyncio.sleep(0.01)
    assert box.still_s > 0
    await box.take()
    assert box.still_s == 0
