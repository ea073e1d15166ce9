import asyncio

from shim.services.waiters import comes_first


async def test_what_comes_first_is_told() -> None:
    loop = asyncio.get_running_loop()
    event: asyncio.Future[None] = loop.create_future()
    left = asyncio.Event()
    assert not await comes_first(event, left, loop.time())
    left.set()
    assert not await comes_first(event, left, None)
    event.set_result(None)
    assert await comes_first(event, left, None)
