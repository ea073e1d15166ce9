"""Interrupt an image store in every way, and look at what is left. Run by ``hack/power-cut``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bench_images_made as made
import power_cut_disk as disk

from shim.images import digest
from shim.images.settings import Settings
from shim.images.store import ImageStore

DISK_BYTES = 256 << 20
STEPS = 30
SECONDS_OF_WORK = 6.0


@dataclass
class Expected:
    """What must hold at a moment: references whose pull was answered, and those whose removal was."""

    there: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def hear(self, line: str) -> None:
        """Take in what the working process says."""
        what, _, reference = line.strip().partition(" ")
        if what in ("removing", "pulling"):  # from now on either is right
            self.there.discard(reference)
            self.gone.discard(reference)
        elif what == "pulled":
            self.there.add(reference)
        elif what == "removed":
            self.gone.add(reference)


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr}")


def images(registry: made.Registry) -> list[str]:
    """Push six images that share some layers: many small files in some, large ones in others."""
    chance = random.Random(3)
    layers = [made.large_of(chance, 1 + number % 3) for number in range(5)]
    layers += [made.small_files(100 + 80 * number)[0] for number in range(4)]
    return [
        registry.push(f"image{number}", [layers[i % 9] for i in (0, number + 1, number + 3)])
        for number in range(6)
    ]


@contextlib.contextmanager
def working(
    root: Path, seed: int, steps: int, references: list[str], wait: str = "go"
) -> Iterator[subprocess.Popen[str]]:
    """Run the process that pulls and removes."""
    program = str(Path(__file__).with_name("power_cut_work.py"))
    command = [sys.executable, program, str(root), str(seed), str(steps), wait, *references]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


async def look(root: Path, expected: Expected, boot_id: str) -> list[str]:
    """Open the store, and return all that is wrong with it."""
    wrong: list[str] = []
    store = ImageStore(str(root), Settings(config_paths=()), boot_id=boot_id)
    await store.start()
    try:
        listed = {name: image for image in store.list() for name in image.repo_tags}
        async for verdict in store.verify([]):
            if verdict.problems:
                wrong.append(f"a layer of {verdict.images} is damaged: {verdict.problems[0]}")
        wrong += [f"{name} was pulled and is not listed" for name in expected.there - listed.keys()]
        wrong += [f"{name} was removed and is listed" for name in expected.gone & listed.keys()]
        wrong += await leftovers(root, store)
        for image in store.list():
            await store.remove(image.id)
        wrong += await leftovers(root, store)
    finally:
        await store.close()
    return wrong


async def leftovers(root: Path, store: ImageStore) -> list[str]:
    """Return what lies in the store's directories and belongs to no image; removal may take a moment."""
    for _ in range(100):
        chains = {digest.hex_part(chain_id) for image in store.list() for chain_id in image.chain_ids}
        found = {str(path) for name in ("ingest", "trash") for path in (root / name).iterdir()}
        found |= {str(path) for path in (root / "layers").iterdir() if path.name not in chains}
        found |= {str(path) for path in (root / "catalog").iterdir() if path.name.startswith(".")}
        blobs = list((root / "blobs/sha256").iterdir())
        if not store.list():
            found |= set(map(str, blobs))
        if not found:
            return []
        await asyncio.sleep(0.05)
    return [f"left behind: {sorted(found)[:5]}"]


def record(
    directory: Path, references: list[str], seed: int
) -> tuple[list[disk.Write], list[tuple[int, str]]]:
    """Work on a recorded disk; return its writes, and (place in the log, line) of what was said meanwhile."""
    file, log, fuse, place = (directory / name for name in ("file", "log", "fuse", "place"))
    for path in (fuse, place):
        path.mkdir()
    with file.open("wb") as out:
        out.truncate(DISK_BYTES)
    run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(file)])
    shutil.copyfile(file, directory / "base")
    said: list[tuple[int, str]] = []
    with disk.recorded(file, log, fuse) as path, disk.mounted(path, place, run):
        with working(place / "images", seed, STEPS, references, "wait") as process:
            assert process.stdout is not None
            assert process.stdin is not None
            for line in process.stdout:
                # It waits: what it was answered is in the log, what it begins is not.
                said.append((log.stat().st_size, line))
                process.stdin.write("\n")
                process.stdin.flush()
        if process.returncode:
            sys.exit("the working process failed; its messages are above")
    return disk.read_log(log), said


def cut(directory: Path, references: list[str], count: int, chance: random.Random) -> list[str]:
    """Cut the power so often; return what was wrong."""
    writes, said = record(directory, references, chance.randrange(1 << 30))
    flushes = sum(write.is_flush for write in writes)
    print(f"recorded {len(writes) - flushes} writes and {flushes} flushes while {len(said)} things were said")
    cutter = disk.Cutter(directory / "base", writes, chance)
    place, target = directory / "place", directory / "cut"
    expected, heard, wrong, doubts = Expected(), 0, [], 0
    moments = sorted(chance.sample(range(len(writes)), min(count, len(writes))))
    for number, moment in enumerate(moments):
        while heard < len(said) and said[heard][0] <= writes[moment].end:
            expected.hear(said[heard][1])
            heard += 1
        doubts += cutter.cut(moment + 1, target)
        with disk.mounted(target, place, run):
            (place / "images").mkdir(exist_ok=True)
            for problem in asyncio.run(look(place / "images", expected, f"boot-{number}")):
                wrong.append(f"cut after write {moment}: {problem}")
                print(wrong[-1])
        if number % 20 == 19:
            print(f"{number + 1} cuts, {doubts} writes were in doubt, {len(wrong)} things wrong", flush=True)
    return wrong


def kill(directory: Path, references: list[str], count: int, chance: random.Random) -> list[str]:
    """Kill a working process so often; return what was wrong."""
    root, wrong = directory / "images", []
    for number in range(count):
        expected = Expected()
        with working(root, chance.randrange(1 << 30), 1000, references) as process:
            assert process.stdout is not None
            expected.hear(process.stdout.readline())
            time.sleep(chance.random() ** 2 * SECONDS_OF_WORK)
            process.kill()
            for line in process.stdout:
                if line.endswith("\n"):
                    expected.hear(line)
        for problem in asyncio.run(look(root, expected, "")):
            wrong.append(f"kill {number}: {problem}")
            print(wrong[-1])
        if number % 20 == 19:
            print(f"{number + 1} kills, {len(wrong)} things wrong", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="hack/power-cut", description=__doc__)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    logging.disable(logging.WARNING)
    run(["ip", "link", "set", "lo", "up"])
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="cri-shim-test-", dir="/dev/shm"))
        )
        registry = stack.enter_context(made.registry(directory))
        references = images(registry)
        chance = random.Random(options.seed)
        if options.cuts:
            wrong += cut(directory, references, options.cuts, chance)
        if options.kills:
            wrong += kill(directory, references, options.kills, chance)
    print(f"{options.cuts} cuts, {options.kills} kills: {len(wrong)} things wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
