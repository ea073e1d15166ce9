"""Archives that lie in a directory are loaded at the start and when they appear, whole or not at all."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shim.images import watched
from shim.images.store import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.registry]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LOOK_EVERY_S", 0.02)


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come about")


@pytest.fixture
async def archive(registry: Any, store: ImageStore, tools: Any, tmp_path: Path) -> Any:
    """Make archives of one image each."""

    async def make(name: str) -> Path:
        built = tools.image(tools.tar(("f", name.encode())))
        await store.pull(registry.push(f"watched/{name}", "v1", built), None)
        path = tmp_path / f"{name}.tar"
        await store.save([f"{registry.host}/watched/{name}:v1"], str(path))
        return path

    return make


@pytest.mark.usefixtures("quick")
async def test_archives_are_loaded_at_the_start_and_when_they_appear(
    registry: Any, open_store: Any, archive: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = [f"{registry.host}/watched/{name}:v1" for name in ("first", "second", "third")]
    place = tmp_path / "watch"
    async with open_store(tmp_path / "other", watch_dir=str(place)) as other:
        place.mkdir()  # it need not have been there before
        shutil.copy(await archive("first"), place / "first.tar")
        await until(lambda: len(other.list()) == 1)
        (place / "broken.tar").write_bytes(b"no archive")
        (place / ".hidden.tar").write_bytes(b"not finished")
        await until(other.failed_archives)
        assert "no image archive" in other.failed_archives()["broken.tar"]
        data = (await archive("second")).read_bytes()
        with (place / "second.tar").open("wb") as writing:  # what is being written is left alone
            writing.write(data[:2000])
            writing.flush()
            shutil.copy(await archive("third"), place / "moved")
            os.rename(place / "moved", place / "third.tar")
            await until(lambda: len(other.list()) == 2)
            writing.write(data[2000:])
        await until(lambda: len(other.list()) == 3)
        assert sorted(name for image in other.list() for name in image.repo_tags) == sorted(names)
        assert all(image.pinned for image in other.list())
        assert other.failed_archives().keys() == {"broken.tar"}
        assert caplog.text.count("cannot load") == 1
        assert other.read_file(other.resolve(names[1]), "/f") == b"second"
        await until(lambda: caplog.text.count("loaded /") == 3)
        await other.remove(names[0])
    loads = caplog.text.count("loaded /")
    (place / "broken.tar").unlink()
    async with open_store(tmp_path / "other", watch_dir=str(place)) as other:
        await until(lambda: len(other.list()) == 3)  # what is missing is loaded again, nothing else
        await until(lambda: not other.failed_archives())
        (place / "last.tar").write_bytes(b"no archive")
        await until(other.failed_archives)  # all has been looked at
        assert caplog.text.count("loaded /") == loads + 1


@pytest.mark.usefixtures("quick")
async def test_an_archive_that_is_replaced_is_loaded_again(
    open_store: Any, archive: Any, tmp_path: Path
) -> None:
    place = tmp_path / "watch"
    place.mkdir()
    (place / "app.tar").write_bytes(b"half of it")
    async with open_store(tmp_path / "other", watch_dir=str(place)) as other:
        await until(other.failed_archives)
        shutil.copy(await archive("app"), place / "app.tar")
        await until(lambda: not other.failed_archives())
        assert len(other.list()) == 1


RACE = """
import os, sys
from shim.images import watched
path = sys.argv[1]
parent, pid = os.getpid(), os.fork()
while not pid and os.getppid() == parent:
    os.close(os.open(path, os.O_WRONLY))
if not pid:
    os._exit(0)
try:
    print(sum(bool(watched._has_writers(path)) for _ in range(20_000)))
finally:
    os.kill(pid, 9)
"""


def test_whoever_opens_an_archive_while_it_is_looked_at_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "archive").touch()
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", RACE, str(tmp_path / "archive")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0
