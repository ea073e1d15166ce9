"""Two things at once, of which either ends the other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_either(work: Coroutine[Any, Any, None], reading: Coroutine[Any, Any, None]) -> None:
    """Do the work while a connection is read; the end of the work, or of the connection, ends both.

    Raises:
        OSError, ValueError: what the one that ended first has raised.
    """
    tasks = [asyncio.ensure_future(each) for each in (work, reading)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
