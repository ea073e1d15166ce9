"""A store that was not closed is told apart by the boot that it was opened in."""

from pathlib import Path

import pytest

from shim.images.unclean import RunningMark


def test_a_store_that_was_closed_has_nothing_doubtful(tmp_path: Path) -> None:
    first = RunningMark(str(tmp_path), "boot 1")
    assert first.begin() is None
    first.end()
    assert RunningMark(str(tmp_path), "boot 2").begin() is None


def test_a_killed_daemon_loses_nothing_but_the_machine_may(tmp_path: Path) -> None:
    assert RunningMark(str(tmp_path), "boot 1").begin() is None
    assert RunningMark(str(tmp_path), "boot 1").begin() is None
    assert RunningMark(str(tmp_path), "boot 2").begin() is not None


def test_what_is_doubtful_stays_so_until_it_was_looked_at(tmp_path: Path) -> None:
    RunningMark(str(tmp_path), "boot 1").begin()
    second = RunningMark(str(tmp_path), "boot 2")
    since = second.begin()
    second.end()
    again = RunningMark(str(tmp_path), "boot 2")
    assert again.begin() == since
    again.settle()
    again.end()
    assert RunningMark(str(tmp_path), "boot 3").begin() is None


def test_a_mark_that_cannot_be_read_makes_everything_doubtful(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "running").write_bytes(b"{")
    since = RunningMark(str(tmp_path), "boot 1").begin()
    assert since is not None
    assert since <= 0
    assert "every layer is checked" in caplog.text
