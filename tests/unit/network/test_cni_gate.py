"""Many at once, or one alone."""

import asyncio

from shim.network.cni_gate import Gate


async def test_one_alone_waits_for_the_others_and_they_for_it() -> None:
    gate, said = Gate(), []
    leave = asyncio.Event()

    async def other(name: str) -> None:
        async with gate.together():
            said.append(name)
            await leave.wait()

    async def alone() -> None:
        async with gate.alone():
            said.append("alone")
            await asyncio.sleep(0)
            said.append("alone still")

    first = asyncio.create_task(other("first"))
    await asyncio.sleep(0)
    one = asyncio.create_task(alone())
    await asyncio.sleep(0)
    second = asyncio.create_task(other("second"))  # who waits to be alone keeps nobody out
    await asyncio.sleep(0)
    assert said == ["first", "second"]
    leave.set()
    await asyncio.gather(first, second, one)
    assert said == ["first", "second", "alone", "alone still"]


async def test_nobody_comes_in_while_one_is_alone() -> None:
    gate, said = Gate(), []
    async with gate.alone():

        async def other() -> None:
            async with gate.together():
                said.append("in")

        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        assert said == []
    await task
    assert said == ["in"]
