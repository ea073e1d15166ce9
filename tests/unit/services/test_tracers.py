"""Which containers can look into others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shim.errors import Unavailable
from shim.model.security import Capabilities, ContainerSecurity
from shim.services import tracers
from shim.services.tracers import Arrivals, has_tracer

ALL = (1 << 41) - 1


def spec(*, userns: object = None, **security: Any) -> Any:
    config = SimpleNamespace(security=ContainerSecurity(**security))
    return cast("Any", SimpleNamespace(config=config, userns=userns))


@pytest.mark.parametrize("add", [("SYS_PTRACE",), ("cap_sys_ptrace",), ("ALL",)])
def test_who_has_the_capability(add: tuple[str, ...]) -> None:
    tracer = spec(capabilities=Capabilities(add=add))
    assert has_tracer((spec(), tracer), ALL)
    assert not has_tracer((tracer,), ALL & ~(1 << 19)), "this node cannot give it"
    assert not has_tracer((changed(tracer, userns=object()),), ALL)


def changed(of: Any, **fields: Any) -> Any:
    return SimpleNamespace(**{**vars(of), **fields})


def test_others_have_not() -> None:
    dropped = spec(capabilities=Capabilities(add=("ALL",), drop=("SYS_PTRACE",)))
    assert not has_tracer((spec(), dropped, spec(privileged=True)), ALL)


async def test_who_waits_is_sent_home_and_who_is_under_way_arrives() -> None:
    arrivals, seen = Arrivals(), []
    go = asyncio.get_running_loop().create_future()
    running = asyncio.Event()

    async def waits() -> None:
        with arrivals.under_way("a", go):
            await asyncio.wait((go,))
            seen.append(go.cancelled())

    async def runs() -> None:
        with arrivals.under_way("a"):
            await running.wait()
            seen.append("ran")

    tasks = [asyncio.create_task(each()) for each in (waits, runs)]
    await asyncio.sleep(0)
    await arrivals.end("b")
    assert not go.done()
    ending = asyncio.create_task(arrivals.end("a"))
    await tasks[0]
    assert (seen, ending.done()) == ([True], False)
    running.set()
    await ending
    assert seen == [True, "ran"]
    await tasks[1]
    await arrivals.end("a")


async def test_nobody_waits_for_ever_for_one_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracers, "_PATIENCE_S", 0.01)
    arrivals = Arrivals()
    with arrivals.under_way("a"):
        with pytest.raises(Unavailable, match="SYS_PTRACE in sandbox 'a' now: 1 execs"):
            await arrivals.end("a")
    await arrivals.end("a")
