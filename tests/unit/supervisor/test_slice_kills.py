"""Kills that the count of a slice has and the counts of its scopes have not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.supervisor.slice_kills import SliceKills


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "memory.events"
    path.write_text("oom 9\noom_kill 3\n")
    return path


@pytest.fixture
def fds(events: Path) -> Iterator[tuple[int, int]]:
    pair = os.open(events, os.O_RDONLY), os.open(events, os.O_RDONLY)
    yield pair
    for fd in pair:
        os.close(fd)


def count(events: Path, kills: int) -> None:
    events.write_text(f"oom 9\noom_kill {kills}\n")


def test_what_no_scope_told_of_belongs_to_the_one_that_is_gone(events: Path, fds: tuple[int, int]) -> None:
    kills = SliceKills()
    for id_, fd in zip("ab", fds, strict=True):
        kills.enter(id_, fd)
    assert kills.take("a") == 0
    count(events, 6)
    kills.tell("b", 1)
    assert kills.take("a") == 2
    assert kills.take("b") == 0


def test_a_scope_that_tells_late_takes_nothing_of_a_later_one(events: Path, fds: tuple[int, int]) -> None:
    kills = SliceKills()
    count(events, 5)
    kills.enter("a", fds[0])
    kills.tell("a", 2)  # they happened before anybody entered
    count(events, 6)
    assert kills.take("a") == 1


def test_a_slice_is_forgotten_with_its_last_scope(events: Path, fds: tuple[int, int]) -> None:
    kills = SliceKills()
    for id_, fd in zip("ab", fds, strict=True):
        kills.enter(id_, fd)
        kills.enter(id_, fd)
    kills.leave("a")
    count(events, 4)
    kills.enter("a", fds[0])
    assert kills.take("a") == 1
    for id_ in "aab":
        kills.leave(id_)
    count(events, 5)
    kills.enter("a", fds[0])
    assert kills.take("a") == 0


def test_of_an_unknown_scope_nothing_is_known() -> None:
    kills = SliceKills()
    kills.tell("a", 1)
    kills.leave("a")
    assert kills.take("a") == 0
