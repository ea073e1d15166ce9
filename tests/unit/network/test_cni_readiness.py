"""Can a pod get a network by CNI now."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cni_bed import Bed

from shim.errors import FailedPrecondition
from shim.network import cni_readiness
from shim.network.cni_plugin import Plugins
from shim.network.cni_readiness import Readiness
from shim.network.settings import CniSettings
from shim.threads import Pool


class Desk(Bed):
    def __init__(self, path: Path) -> None:
        super().__init__(path, version="1.1.0")
        settings = CniSettings(
            str(path / "r"),
            str(path / "q"),
            (str(path / "missing"), str(self.conf_dir)),
            (str(self.bin_dir),),
        )
        self.files = Pool("test", 1)
        self.readiness = Readiness(settings, Plugins(settings.bin_dirs, 10, "m"), self.files)

    async def message(self) -> str:
        condition = await self.readiness.condition()
        assert condition.ready is (condition.message == "")
        assert condition.reason in ("", "NetworkPluginNotReady")
        return condition.message


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(cni_readiness, "_PATIENCE_S", 20)  # for machines with other work
    desk = Desk(tmp_path)
    yield desk
    await desk.readiness.close()
    desk.files.close()


async def test_a_configuration_appears_vanishes_and_reappears(desk: Desk) -> None:
    text = desk.file.read_text()
    assert await desk.message() == ""
    desk.file.unlink()
    assert "a network add-on puts it there" in await desk.message()
    desk.file.write_text("{")
    assert f"can be used: {desk.file}: it is not JSON" in await desk.message()
    desk.file.write_text(text)
    assert await desk.message() == ""


async def test_a_plugin_that_is_missing_is_named(desk: Desk) -> None:
    desk.remove("second")
    assert await desk.message() == (
        f"CNI plugin 'second' of network 'net' in {desk.file} is in none of {desk.bin_dir}: install it"
    )
    desk.install("second")
    assert await desk.message() == ""


@pytest.mark.parametrize("how", ["fail", "silent", "words", "again"])
async def test_a_plugin_that_is_not_ready_is_named(
    desk: Desk, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_readiness, "_NOT_READY_COUNTS_S", 0)
    desk.does("first", "STATUS", how)
    assert f"CNI plugin 'first' (STATUS) of network 'net' in {desk.file} failed" in await desk.message()
    assert desk.verbs() == [("STATUS", "first")]
    desk.does("first", "STATUS")
    assert await desk.message() == ""


async def test_status_is_asked_once_for_some_seconds_and_for_each_configuration(desk: Desk) -> None:
    for _ in range(3):
        assert await desk.message() == ""
    assert desk.verbs() == [("STATUS", "first"), ("STATUS", "second")]
    desk.configure("1.1.0", disableGC=True)
    assert await desk.message() == ""
    assert len(desk.verbs()) == 2
    desk.configure("1.0.0")
    assert await desk.message() == ""
    assert desk.verbs() == []


async def test_nobody_waits_long_for_a_plugin_that_hangs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni_readiness, "_PATIENCE_S", 0.2)
    desk.does("first", "STATUS", "hang")
    expected = (
        f"the CNI plugins of network 'net' in {desk.file} have not answered STATUS or VERSION for 0.2 s"
    )
    for _ in range(2):
        assert await desk.message() == expected
    while not desk.hangs():
        await asyncio.sleep(0.01)
    assert await desk.message() == expected
    assert desk.verbs() == [("STATUS", "first")]


async def test_one_slow_answer_changes_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni_readiness, "_READY_COUNTS_S", 0)
    assert await desk.message() == ""
    monkeypatch.setattr(cni_readiness, "_PATIENCE_S", 0.2)
    desk.does("first", "STATUS", "hang")
    assert await desk.message() == ""
    monkeypatch.setattr(cni_readiness, "_LAST_COUNTS_S", 0)
    assert "have not answered" in await desk.message()


async def test_the_highest_version_that_all_plugins_speak_is_chosen(desk: Desk) -> None:
    desk.configure("0.4.0", cniVersions=["1.0.0", "1.1.0"])
    assert (await desk.readiness.usable()).cni_version == "1.1.0"
    desk.speaks("second", "0.3.1", "1.0.0")
    assert (await desk.readiness.usable()).cni_version == "1.0.0"
    desk.speaks("first", "0.4.0")
    with pytest.raises(FailedPrecondition) as caught:
        await desk.readiness.usable()
    assert str(caught.value) == (
        f"network 'net' in {desk.file} is written for CNI version 1.1.0, 1.0.0, 0.4.0, which not all its "
        "plugins speak ('first' speaks up to 0.4.0; 'second' speaks up to 1.0.0): install newer ones, or "
        "name an older version in cniVersions"
    )


@pytest.mark.parametrize("how", ["fail", "rubbish", "empty", "list", "without"])
async def test_a_plugin_that_does_not_say_what_it_speaks_is_taken_to_speak_all(desk: Desk, how: str) -> None:
    desk.does("second", "VERSION", how)
    assert (await desk.readiness.usable()).cni_version == "1.1.0"


async def test_a_file_that_is_passed_over_is_logged_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    (desk.conf_dir / "05-broken.conf").write_text("{")
    document = json.loads(desk.file.read_text())
    desk.file.write_text('{"name":"other",' + json.dumps(document)[1:])
    for _ in range(3):
        assert await desk.message() == ""
    assert caplog.text.count("05-broken.conf: it is not JSON") == 1
    assert caplog.text.count("key 'name' is there more than once") == 1


async def test_callers_at_once_ask_once(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.readiness.condition() for _ in range(50)))
    assert all(answer.ready for answer in answers)
    assert len(desk.verbs()) == 2
