import asyncio

from shim.services.locks import Locks


async def test_holders_of_one_id_take_turns_and_others_do_not_wait() -> None:
    locks = Locks()
    order: list[str] = []

    async def work(id_: str, name: str) -> None:
        async with locks.hold(id_):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(work("a", "1"), work("a", "2"), work("b", "3"))
    assert order == ["1 in", "3 in", "1 out", "3 out", "2 in", "2 out"]
    assert len(locks) == 0


async def test_a_cancelled_waiter_leaves_nothing() -> None:
    locks = Locks()
    async with locks.hold("a"):
        waiter = asyncio.create_task(locks.hold("a").__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert len(locks) == 1
    assert len(locks) == 0
