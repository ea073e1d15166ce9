"""Limits that programs begin with."""

from __future__ import annotations

import resource

from shim.runtime import rlimits

UNLIMITED = resource.RLIM_INFINITY


def test_open_files_are_as_configured() -> None:
    assert rlimits.plan_rlimits(10, 20)[0] == (resource.RLIMIT_NOFILE, 10, 20)


def test_limits_stay_below_the_ceiling() -> None:
    assert rlimits.within(
        ((1, 10, 20), (2, 10, UNLIMITED), (3, UNLIMITED, UNLIMITED)), {1: 5, 2: 15, 3: 7}
    ) == (
        (1, 5, 5),
        (2, 10, 15),
        (3, 7, 7),
    )
    assert rlimits.within(((1, 10, 20), (2, 10, UNLIMITED)), {1: UNLIMITED, 2: UNLIMITED}) == (
        (1, 10, 20),
        (2, 10, UNLIMITED),
    )


def test_every_planned_limit_has_a_ceiling() -> None:
    planned = rlimits.plan_rlimits(1, 2)
    assert {number for number, _, _ in planned} == rlimits.ceilings().keys()


def test_nothing_but_pending_signals_is_inherited() -> None:
    """Their number follows from the machine's memory, and every process begins with it."""
    numbers = {number for number, _, _ in rlimits.plan_rlimits(1, 2)}
    assert set(range(16)) - numbers == {11}
