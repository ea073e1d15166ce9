import asyncio

import pytest

from shim.stages import Operation, operation, stage


def paths(of: Operation) -> list[str]:
    return [each.path for each in of.stages]


def test_stages_are_noted_in_the_order_in_which_they_begin() -> None:
    with operation() as begun:
        with stage("network"):
            with stage("address"):
                pass
            with stage("link"):
                pass
        with stage("record"):
            pass
    assert paths(begun) == ["network", "network > address", "network > link", "record"]
    assert [each.depth for each in begun.stages] == [0, 1, 1, 0]
    assert [each.name for each in begun.stages] == ["network", "address", "link", "record"]
    assert all(each.took_ns >= 0 and not each.failed for each in begun.stages)


def test_without_an_operation_a_stage_is_nothing() -> None:
    with stage("network"):
        pass
    with operation() as begun:
        pass
    assert begun.stages == []


def reword() -> None:
    try:
        with stage("inner"):
            int("no number")
    except ValueError as error:
        raise KeyError("other words") from error


def fail(begun: Operation) -> ValueError:
    error = ValueError("no")
    with pytest.raises(ValueError, match="no"), stage("outer"), stage("inner"):
        raise error
    return error


def test_a_failure_is_known_by_its_innermost_stage() -> None:
    with operation() as begun:
        error = fail(begun)
    assert begun.failed_at(error) == "outer > inner"
    assert [each.failed for each in begun.stages] == [True, True]


def test_an_error_that_was_made_of_another_keeps_the_stage() -> None:
    with operation() as begun:
        with pytest.raises(KeyError) as raised, stage("outer"):
            reword()
        with pytest.raises(RuntimeError) as unrelated:
            raise RuntimeError("later")
    assert begun.failed_at(raised.value) == "outer > inner"
    assert begun.failed_at(unrelated.value) == ""


def test_a_failure_that_was_coped_with_is_not_the_failure_of_the_call() -> None:
    with operation() as begun:
        first = fail(begun)
        with pytest.raises(OSError, match="disk"), stage("record"):
            raise OSError("disk")
    assert begun.failed_at(first) == ""


async def test_tasks_belong_to_the_operation_that_began_them() -> None:
    async def work(name: str) -> None:
        with stage(name):
            await asyncio.sleep(0)
            with stage("part"):
                await asyncio.sleep(0)

    with operation() as begun, stage("layers"):
        await asyncio.gather(asyncio.create_task(work("a")), asyncio.create_task(work("b")))
    assert sorted(paths(begun)) == [
        "layers",
        "layers > a",
        "layers > a > part",
        "layers > b",
        "layers > b > part",
    ]


def test_the_number_of_stages_is_bounded() -> None:
    with operation() as begun:
        for _ in range(1000):
            with stage("x"):
                pass
    assert len(begun.stages) == 200
