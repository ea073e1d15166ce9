"""A disk or process that hangs in the middle of a pull: the pull ends, the daemon and other pulls go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, Fake, running

from shim.errors import DeadlineExceeded
from shim.images.stalls import Stalled
from shim.images.syncer import Syncer
from shim.kernel import mount

pytestmark = [pytest.mark.root, pytest.mark.registry]

HANGS = r"cannot (unpack|write|finish) layer sha256:.*nothing was read or written for 2 s; look for"


def workers() -> list[int]:
    """Return the pids of this process' children that unpack layers."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return [pid for pid in found if b"shim.images.unpack" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"still: {what()}")


async def ingest_is_empty(root: Path) -> None:
    await until(lambda: not os.listdir(root / "ingest"), lambda: os.listdir(root / "ingest"))


@pytest.fixture
def large(registry: Any, tools: Any) -> Any:
    """The name of an image whose layer no pipe and buffer holds."""
    stream = tools.tar(*((f"d/{number}", os.urandom(1 << 20)) for number in range(12)))
    return registry.push("hangs/large", "v1", tools.image(stream))


@pytest.fixture
def small(registry: Any, tools: Any) -> str:
    name: str = registry.push("hangs/small", "v1", tools.image(tools.tar(("f", os.urandom(10)))))
    return name


def once(when: Callable[[str, int], bool], do: Callable[[], None]) -> Callable[[str, str, int, int], None]:
    """Return a report that does something the first time that the progress is so far."""
    done = [False]

    def report(item: str, phase: str, done_bytes: int, total_bytes: int) -> None:
        if not done[0] and when(phase, done_bytes):
            done[0] = True
            do()

    return report


def stop_workers() -> None:
    assert workers()
    for pid in workers():
        os.kill(pid, signal.SIGSTOP)


def in_the_middle(phase: str, done_bytes: int) -> bool:
    return phase == "downloading" and done_bytes > 6 << 20


async def test_what_is_unpacked_so_far_counts_while_a_pull_runs_and_is_gone_when_it_fails(
    open_store: Any, tools: Any, tmp_path: Path, large: str, small: str
) -> None:
    root = tmp_path / "images"
    async with open_store(root) as store:
        await store.pull(small, None)
        before = await store.fs_usage()
        pull = asyncio.ensure_future(store.pull(large, None, progress=once(in_the_middle, stop_workers)))
        usage = before
        while usage.used_bytes < before.used_bytes + (1 << 20):
            assert not pull.done(), pull
            await asyncio.sleep(0.01)
            usage = await store.fs_usage()
        assert usage.inodes_used > before.inodes_used
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        after = await store.fs_usage()
        assert (after.used_bytes, after.inodes_used) == (before.used_bytes, before.inodes_used)
        assert os.listdir(root / "ingest") == []


async def test_what_is_committed_counts_once(open_store: Any, tmp_path: Path, large: str) -> None:
    async with open_store(tmp_path / "images") as store:
        seen: list[int] = []
        usage = store._layers.usage
        image = await store.pull(large, None, progress=lambda *_: seen.append(usage()[0]))
        used, inodes = usage()
        assert seen == sorted(seen)
        assert any(12 << 18 < each < 12 << 20 for each in seen)
        assert 12 << 20 < used < 13 << 20
        assert inodes == 13
        await store.remove(image.id)
        assert usage() == (0, 0)


async def test_a_worker_that_hangs_ends_its_pull_and_no_other(
    open_store: Any, tools: Any, tmp_path: Path, large: str, small: str
) -> None:
    root = tmp_path / "images"
    async with open_store(root, hang_timeout_s=2.0, max_downloads=1) as store:
        with pytest.raises(DeadlineExceeded, match=HANGS):
            await store.pull(large, None, progress=once(in_the_middle, stop_workers))
        await store.pull(small, None)
        await ingest_is_empty(root)
        image = await store.pull(large, None)
        assert store.read_file(image, "/d/11") is not None
    async with open_store(root) as store:
        assert [verdict.problems async for verdict in store.verify([])] == [(), ()]


async def test_callers_who_share_a_layer_hear_of_the_hang_at_once(
    registry: Any, open_store: Any, tools: Any, tmp_path: Path
) -> None:
    stream = tools.tar(("f", os.urandom(12 << 20)))
    names = [
        registry.push(f"hangs/shared{number}", "v1", tools.image(stream, config={"User": str(number)}))
        for number in range(3)
    ]
    async with open_store(tmp_path / "images", hang_timeout_s=2.0) as store:
        report = once(in_the_middle, stop_workers)
        pulls = (store.pull(name, None, progress=report) for name in names)
        errors = await asyncio.gather(*pulls, return_exceptions=True)
        assert [type(error) for error in errors] == [Stalled] * 3
        assert sum(store.counters.failed.values()) == 3


async def test_a_slow_registry_is_not_taken_for_a_disk_that_hangs(
    open_store: Any, tools: Any, tmp_path: Path
) -> None:
    """Nothing is unpacked for longer than the time that makes a hang, while the network is waited for."""
    site, built = Fake(), tools.image(tools.tar(("f", os.urandom(300_000))))
    site.offer(built)
    site.answers[f"/blobs/{built.layers[0]}"] = Answer(
        body=built.blobs[built.layers[0]], piece=100_000, pause_s=1.5
    )
    with running(site):
        async with open_store(tmp_path / "images", hang_timeout_s=1.0) as store:
            image = await store.pull(f"{site.host}/hangs/slow:v1", None)
            assert store.read_file(image, "/f") is not None


class Disk:
    """An ext4 of our own that can be made to hang: whoever writes waits in the kernel and cannot be killed.

    Another process does that, so that it goes on when this one ends, however it ends.
    """

    def __init__(self, path: Path) -> None:
        image = path / "disk"
        with image.open("wb") as file:
            file.truncate(128 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1", str(image)], check=True)
        done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"there are no loop devices here: {done.stderr}")
        loop = done.stdout.strip()
        try:
            self.fd = mount.new_mount("ext4", loop)
        finally:
            subprocess.run(["losetup", "--detach", loop], check=True)  # when it is used no more
        self.path = Path(f"/proc/{os.getpid()}/fd/{self.fd}")
        self._holder: subprocess.Popen[bytes] | None = None

    def hang(self) -> None:
        place = f"/proc/self/fd/{self.fd}"
        command = f"fsfreeze --freeze {place} && echo frozen && cat; fsfreeze --unfreeze {place}"
        self._holder = subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[self.fd]
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"frozen\n"

    def go_on(self) -> None:
        if self._holder is not None:
            self._holder.communicate()
            self._holder = None


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    try:
        yield made
    finally:
        made.go_on()
        os.close(made.fd)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


async def test_a_disk_that_hangs_while_unpacking_ends_the_pull(
    open_store: Any, tools: Any, tmp_path: Path, disk: Disk, large: str, small: str
) -> None:
    root = disk.path / "images"
    async with open_store(root, hang_timeout_s=2.0, max_downloads=1) as store:
        kept = await store.pull(small, None)
        before = await store.fs_usage()
        try:
            with pytest.raises(DeadlineExceeded, match=HANGS):
                await store.pull(large, None, progress=once(in_the_middle, disk.hang))
            stuck = workers()
            assert [state(pid) for pid in stuck] == ["D"]  # killed, but the kernel does not let it go
            # The daemon goes on, and who tries again hears the same: no turn is lost.
            assert store.list() == [kept]
            assert (await store.fs_usage()).used_bytes > before.used_bytes
            for _ in range(2):
                with pytest.raises(DeadlineExceeded, match=HANGS):
                    await store.pull(large, None)
        finally:
            disk.go_on()
        await ingest_is_empty(root)
        await until(lambda: not workers(), workers)
        assert [state(pid) for pid in stuck] == ["gone"]
        await until(lambda: store._layers.usage()[0] < before.used_bytes, store._layers.usage)
        image = await store.pull(large, None)
        assert store.read_file(image, "/d/11") is not None
        assert tools.leftovers(root) != []
        for each in store.list():
            await store.remove(each.id)
        assert tools.leftovers(root) == []


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_disk_that_hangs_when_a_layer_is_done_ends_the_pull(
    open_store: Any,
    tools: Any,
    disk: Disk,
    small: str,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frozen before or after the layer is synced: what comes then is to be put in place."""
    root, sync = disk.path / "images", Syncer.sync

    async def hang_too(syncer: Syncer) -> None:
        if moment == "before":
            disk.hang()
        await sync(syncer)
        if moment == "after":
            disk.hang()

    async with open_store(root, hang_timeout_s=2.0) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Syncer, "sync", hang_too)
            try:
                with pytest.raises(DeadlineExceeded, match=HANGS):
                    await store.pull(small, None)
            finally:
                disk.go_on()
        # What was given up is done now, or was undone; nobody needs it, or the next pull takes it.
        image = await store.pull(small, None)
        assert store.read_file(image, "/f") is not None
        await store.remove(image.id)
        await ingest_is_empty(root)
        assert tools.leftovers(root) == []
