"""Pull and remove images at random, and tell of each before and after: what ``hack/power-cut`` interrupts.

power_cut_work.py ROOT SEED STEPS go|wait REFERENCE...

With ``wait`` it reads a line after each that it writes.
"""

from __future__ import annotations

import asyncio
import random
import sys

from shim.images.settings import Settings
from shim.images.store import ImageStore


def say(*words: str) -> None:
    print(*words, flush=True)
    if sys.argv[4] == "wait":
        sys.stdin.readline()


async def step(store: ImageStore, chance: random.Random, references: list[str]) -> None:
    """Pull one image, or two at once, or remove one."""
    here = [
        reference for reference in references if any(reference in image.repo_tags for image in store.list())
    ]
    missing = [reference for reference in references if reference not in here]
    if here and (not missing or chance.random() < 0.45):
        reference = chance.choice(here)
        say("removing", reference)
        await store.remove(reference)
        say("removed", reference)
        return
    chosen = chance.sample(missing, min(len(missing), chance.randint(1, 2)))

    async def pull(reference: str) -> None:
        say("pulling", reference)
        await store.pull(reference, None)
        say("pulled", reference)

    await asyncio.gather(*map(pull, chosen))


async def main(root: str, seed: str, steps: str, _wait: str, *references: str) -> None:
    chance = random.Random(int(seed))
    store = ImageStore(root, Settings(config_paths=()))
    await store.start()
    try:
        for _ in range(int(steps)):
            await step(store, chance, list(references))
        say("done")
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
