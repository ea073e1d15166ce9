import asyncio

from shim.services.containers.stopping import Stopping


class Process:
    """A container that ends when it is killed, or at its stop signal if it is obedient."""

    def __init__(self, *, obedient: bool = False) -> None:
        self.signals = 0
        self.kills = 0
        self._obedient = obedient
        self.ended = asyncio.Event()

    async def send_signal(self) -> None:
        self.signals += 1
        if self._obedient:
            self.ended.set()

    async def kill(self) -> None:
        self.kills += 1
        self.ended.set()

    def stopping(self, timeout_s: float) -> Stopping:
        return Stopping(self.send_signal, self.kill, self.ended.wait, timeout_s)


async def test_an_obedient_process_is_not_killed() -> None:
    process = Process(obedient=True)
    await process.stopping(60).run()
    assert (process.signals, process.kills) == (1, 0)


async def test_no_grace_means_no_signal() -> None:
    for timeout_s in (0, -5):
        process = Process()
        await process.stopping(timeout_s).run()
        assert (process.signals, process.kills) == (0, 1)


async def test_after_the_grace_it_is_killed() -> None:
    process = Process()
    await process.stopping(0.001).run()
    assert (process.signals, process.kills) == (1, 1)


async def test_a_second_call_shortens_the_grace_without_a_second_signal() -> None:
    process = Process()
    stopping = process.stopping(3600)
    task = asyncio.create_task(stopping.run())
    for _ in range(5):
        await asyncio.sleep(0)
    stopping.shorten(0)
    await asyncio.wait_for(task, 5)
    assert (process.signals, process.kills) == (1, 1)


async def test_a_second_call_never_lengthens_the_grace() -> None:
    process = Process()
    stopping = process.stopping(0.01)
    task = asyncio.create_task(stopping.run())
    await asyncio.sleep(0)
    stopping.shorten(3600)
    await asyncio.wait_for(task, 5)
    assert process.kills == 1
