"""Whatever happens in the middle of a pull: the image is absent or whole, and nothing is left lying about."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shim
from shim.errors import ResourceExhausted
from shim.images.settings import Settings
from shim.kernel import mount

pytestmark = [pytest.mark.root, pytest.mark.registry]

# Pulls or loads an image and tells of its progress, a line each.
DAEMON = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from shim.images.settings import Settings
from shim.images.store import ImageStore

def say(item, phase, done, total):
    print(phase, flush=True)

async def main():
    store = ImageStore(sys.argv[2], Settings(**json.loads(sys.argv[3])))
    await store.start()
    if sys.argv[4].startswith("/"):
        await store.load(sys.argv[4], progress=say)
    else:
        await store.pull(sys.argv[4], None, progress=say)
    await store.close()

asyncio.run(main())
"""


def kill_in_the_middle(root: Path, settings: Settings, what: str, after_lines: int) -> None:
    """Kill a process that brings an image in with SIGKILL after so much progress; its workers end with it."""
    arguments = [
        str(Path(shim.__file__).parents[1]),
        str(root),
        json.dumps(dataclasses.asdict(settings)),
        what,
    ]
    with subprocess.Popen(
        [sys.executable, "-I", "-c", DAEMON, *arguments], stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        for _ in range(after_lines):
            if not daemon.stdout.readline():
                break
        workers = children(daemon.pid)
        daemon.send_signal(signal.SIGKILL)
    for pid in workers:
        wait_until_gone(pid)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def wait_until_gone(pid: int) -> None:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":  # nobody reaps it yet, but it does nothing any more
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} outlives the daemon that it worked for")


@pytest.fixture
def many(tools: Any) -> Any:
    """An image of three layers that take a moment: incompressible, and with many files."""
    streams = [
        tools.tar(
            (f"big{number}", os.urandom(4 << 20)),
            *((f"{number}/{name}", b"x" * 100) for name in range(500)),
        )
        for number in range(3)
    ]
    return tools.image(*streams)


async def tidy(root: Path, store: Any) -> None:
    """Return when nothing is left that no image has: the start removes it in the background."""

    def left() -> list[str]:
        chains = {chain_id.partition(":")[2] for image in store.list() for chain_id in image.chain_ids}
        found = [*os.listdir(root / "trash"), *os.listdir(root / "ingest")]
        return [*found, *(set(os.listdir(root / "layers")) - chains)]

    for _ in range(3000):
        if not left():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"left: {left()}")


@pytest.mark.parametrize("after_lines", [1, 4, 20, 60])
async def test_a_pull_that_was_killed_leaves_an_image_absent_or_whole(
    registry: Any,
    open_store: Any,
    settings: Settings,
    many: Any,
    tools: Any,
    tmp_path: Path,
    after_lines: int,
) -> None:
    name, root = registry.push("crash/app", "v1", many), tmp_path / "images"
    kill_in_the_middle(root, settings, name, after_lines)
    async with open_store(root) as store:
        await tidy(root, store)
        if not store.list():
            assert tools.leftovers(root) == []
        image = await store.pull(name, None)
        assert image.id == many.id
        await store.save([name], str(tmp_path / "saved.tar"))  # checks every byte of every layer
        await store.remove(name)
        assert tools.leftovers(root) == []


@pytest.mark.parametrize("after_lines", [1, 3])
async def test_a_load_that_was_killed_leaves_nothing(
    open_store: Any,
    settings: Settings,
    registry: Any,
    many: Any,
    tools: Any,
    tmp_path: Path,
    after_lines: int,
) -> None:
    path, root = tmp_path / "saved.tar", tmp_path / "images"
    async with open_store(tmp_path / "first") as store:
        name = registry.push("crash/app", "v1", many)
        await store.pull(name, None)
        await store.save([name], str(path))
    kill_in_the_middle(root, settings, str(path), after_lines)
    async with open_store(root) as store:
        await tidy(root, store)
        if not store.list():
            assert tools.leftovers(root) == []
        assert [image.id for image in await store.load(str(path))] == [many.id]


@pytest.fixture
def small_disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A tmpfs that no namespace has mounted: it goes with the descriptor, however this process ends."""
    fd = mount.new_mount("tmpfs", "tmpfs", request.param)
    yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    os.close(fd)


@pytest.mark.parametrize(
    "small_disk", [("size=7m",), ("nr_inodes=700",)], ids=["bytes", "inodes"], indirect=True
)
async def test_a_disk_that_fills_up_says_so_and_is_as_empty_as_before(
    registry: Any, open_store: Any, many: Any, tools: Any, small_disk: Path
) -> None:
    name = registry.push("crash/app", "v1", many)
    small = registry.push("crash/small", "v1", tools.image(tools.tar(("f", b"fits"))))
    root = small_disk / "images"
    async with open_store(root) as store:
        kept = await store.pull(small, None)
        before, files = os.statvfs(root), tools.leftovers(root)
        with pytest.raises(ResourceExhausted, match="no space left"):
            await store.pull(name, None)
        await tidy(root, store)
        assert tools.leftovers(root) == files
        assert os.statvfs(root).f_ffree == before.f_ffree
        assert os.statvfs(root).f_bfree == before.f_bfree
        assert store.list() == [kept]
        await store.remove(small)
        await store.pull(small, None)


@pytest.mark.parametrize("small_disk", [("size=3m",)], indirect=True)
async def test_the_disk_may_be_full_at_any_point(
    registry: Any, open_store: Any, tools: Any, small_disk: Path
) -> None:
    streams = [
        tools.tar(*((f"{layer}/{n}", os.urandom(3000)) for n in range(20)), (f".wh.{layer}", b""))
        for layer in range(3)
    ]
    name = registry.push("crash/full", "v1", tools.image(*streams))
    root, outcomes = small_disk / "images", []
    async with open_store(root) as store:
        kept = await store.pull(registry.push("crash/kept", "v1", tools.image(tools.tar(("f", b"1")))), None)
        files = tools.leftovers(root)
        for free_kib in range(0, 480, 16):
            leave_free(small_disk, free_kib << 10)
            before = os.statvfs(root)
            try:
                image = await store.pull(name, None)
            except ResourceExhausted as error:
                assert "no space left" in str(error)  # noqa: PT017 - either may come
                outcomes.append("full")
            else:
                assert store.read_file(image, "/2/19") is not None
                outcomes.append("pulled")
                await store.remove(image.id)
            await tidy(root, store)
            assert (store.list(), tools.leftovers(root)) == ([kept], files)
            assert store.read_file(kept, "/f") == b"1"
            after = os.statvfs(root)
            assert (after.f_bfree, after.f_ffree) == (before.f_bfree, before.f_ffree)
        leave_free(small_disk, 0)
    async with open_store(root) as store:  # it starts on a full disk, and room can be made
        assert store.list() == [kept]
        await store.remove(kept.id)
        assert tools.leftovers(root) == []
    assert outcomes == sorted(outcomes)
    assert {"full", "pulled"} == set(outcomes)


def leave_free(disk: Path, wanted_bytes: int) -> None:
    """Fill a disk up to so many bytes."""
    with (disk / "fill").open("wb") as file:
        info = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, max(1, info.f_bavail * info.f_bsize - wanted_bytes))


@pytest.mark.parametrize("small_disk", [("size=7m",)], indirect=True)
async def test_a_full_disk_stops_a_compressed_archive(
    registry: Any, open_store: Any, many: Any, tools: Any, small_disk: Path, tmp_path: Path
) -> None:
    name = registry.push("crash/app", "v1", many)
    async with open_store(tmp_path / "images") as store:
        await store.pull(name, None)
        await store.save([name], str(tmp_path / "saved.tar"))
    compress(tmp_path / "saved.tar")
    async with open_store(small_disk / "images") as store:
        with pytest.raises(ResourceExhausted, match="no space left"):
            await store.load(str(tmp_path / "saved.tar.gz"))
        small = await store.pull(
            registry.push("crash/small", "v1", tools.image(tools.tar(("f", b"1")))), None
        )
        await store.remove(small.id)
        assert tools.leftovers(small_disk / "images") == []


def compress(path: Path) -> None:
    subprocess.run(["gzip", "-1", str(path)], check=True)


async def test_records_and_layers_that_cannot_be_read_are_set_aside(
    registry: Any, open_store: Any, tools: Any, tmp_path: Path
) -> None:
    root, images = tmp_path / "images", []
    async with open_store(root) as store:
        for number in range(4):
            built = tools.image(tools.tar(("f", str(number).encode())))
            images.append(await store.pull(registry.push(f"crash/damage{number}", "v1", built), None))
    damage(root, images)
    async with open_store(root) as store:
        assert store.list() == [images[3]]
        assert [name for name in os.listdir(root / "quarantine") if name.startswith("image-")]
        again = await store.pull(images[0].repo_tags[0], None)
        assert store.read_file(again, "/f") == b"0"


def damage(root: Path, images: list[Any]) -> None:
    (root / "catalog" / f"{images[0].id[7:]}.json").write_bytes(b'{"version": 99}')
    (root / "layers" / images[1].chain_ids[0][7:] / "layer.json").write_bytes(b"{")
    (root / "blobs/sha256" / images[2].id[7:]).write_bytes(b"other")


async def test_a_layer_that_cannot_be_taken_out_stays_for_the_next_pull(
    registry: Any, open_store: Any, tools: Any, tmp_path: Path
) -> None:
    root, name = tmp_path / "images", registry.push("crash/stays", "v1", tools.image(tools.tar(("f", b"1"))))
    async with open_store(root) as store:
        image = await store.pull(name, None)
        (root / "trash").rename(root / "elsewhere")
        await store.remove(image.id)
        assert store.list() == []
        assert os.listdir(root / "layers") != []
        (root / "elsewhere").rename(root / "trash")
        again = await store.pull(name, None)
        assert store.read_file(again, "/f") == b"1"
        await store.remove(again.id)
        assert tools.leftovers(root) == []
