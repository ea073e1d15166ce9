"""CNI with plugins of the tests, at each verb and in each way to fail."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cni_bed import Bed

from shim.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument
from shim.network.cni import CniNetwork
from shim.network.cni_input import INGRESS
from shim.network.plugin import SetupRequest
from shim.network.settings import CniSettings
from shim.store.records import UnreadableRecord

ID, OTHER = "ab" * 32, "cd" * 32
NETNS = "/proc/self/ns/net"
REQUEST = SetupRequest(ID, "web", "default", "u1", NETNS)


class Desk(Bed):
    """The plugins, and the network that calls them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.records = path / "records"
        self.settings = CniSettings(
            str(self.records), str(path / "quarantine"), (str(self.conf_dir),), (str(self.bin_dir),), 10
        )
        self.network = CniNetwork(self.settings)

    async def restart(self, **changes: Any) -> None:
        await self.network.close()
        self.settings = dataclasses.replace(self.settings, **changes)
        self.network = CniNetwork(self.settings)

    def recorded(self) -> list[str]:
        return sorted(path.stem for path in self.records.glob("[!.]*"))

    async def until(self, true: Any) -> None:
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, "it did not come true in time"
            await asyncio.sleep(0.01)


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    for patience in ("cni._START_PATIENCE_S", "cni_readiness._PATIENCE_S"):  # for machines with other work
        monkeypatch.setattr(f"shim.network.{patience}", 20)
    desk = Desk(tmp_path)
    yield desk
    await desk.network.close()


def by(calls: list[tuple[str, str, str, dict[str, Any]]]) -> list[tuple[str, str, str, str]]:
    """(command, plugin, namespace, who made the result it got)."""
    return [(c, p, n, config.get("prevResult", {}).get("by", "")) for c, p, n, config in calls]


async def test_each_plugin_gets_the_result_of_the_one_before(desk: Desk) -> None:
    result = await desk.network.setup(REQUEST)
    assert result.ips == ("10.0.0.2",)
    assert by(desk.calls()) == [("ADD", "first", NETNS, ""), ("ADD", "second", NETNS, "first")]
    with pytest.raises(AlreadyExists):
        await desk.network.setup(REQUEST)
    assert desk.held() == [f"first-{ID}", f"second-{ID}"]


async def test_del_after_a_restart_is_as_add_was(desk: Desk) -> None:
    await desk.network.setup(REQUEST)
    desk.calls()
    desk.file.unlink()
    await desk.restart()
    await desk.network.teardown(ID, NETNS)
    assert by(desk.calls()) == [("DEL", "second", NETNS, "second"), ("DEL", "first", NETNS, "second")]
    await desk.network.teardown(ID, "")
    assert desk.calls() == []
    assert desk.recorded() == []


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("fail", r"failed with exit code 1: broken; on purpose \(stderr: noise of second\)"),
        ("silent", "failed with exit code 3: it said nothing"),
        ("words", "failed with exit code 2: it broke"),
        ("rubbish", "answered no JSON but '}{ nonsense'"),
        ("list", "answered no JSON object but"),
        ("empty", "answered nothing"),
        ("flood", "answered more than"),
    ],
)
async def test_an_add_that_fails_is_undone_and_named(desk: Desk, how: str, what: str) -> None:
    desk.does("second", "ADD", how)
    with pytest.raises(FailedPrecondition, match=what) as caught:
        await desk.network.setup(REQUEST)
    assert str(caught.value).startswith(f"CNI plugin 'second' (ADD) of network 'net' in {desk.file}")
    assert desk.verbs()[2:] == [("DEL", "second"), ("DEL", "first")]
    assert (desk.recorded(), desk.held()) == ([], [])


async def test_what_failed_half_way_is_removed_with_what_was_known_by_then(desk: Desk) -> None:
    desk.does("second", "ADD", "fail")
    with pytest.raises(FailedPrecondition):
        await desk.network.setup(REQUEST)
    assert by(desk.calls())[2:] == [("DEL", "second", NETNS, "first"), ("DEL", "first", NETNS, "first")]


async def test_an_add_that_hangs_is_killed_with_what_it_started_and_undone(desk: Desk) -> None:
    await desk.restart(timeout_s=3)
    desk.does("first", "ADD", "hang")
    with pytest.raises(DeadlineExceeded, match=r"\(ADD\) of network 'net' .* took more than 3 s"):
        await desk.network.setup(REQUEST)
    assert (desk.recorded(), desk.held()) == ([], [])


async def test_a_result_without_an_address_is_undone(desk: Desk) -> None:
    desk.does("second", "ADD", "without")
    with pytest.raises(FailedPrecondition, match="no address for eth0"):
        await desk.network.setup(REQUEST)
    assert (desk.recorded(), desk.held()) == ([], [])


@pytest.mark.parametrize("how", ["fail"])
async def test_a_del_that_fails_ends_the_others_stays_recorded_and_goes_on_by_itself(
    desk: Desk, how: str
) -> None:
    await desk.network.setup(REQUEST)
    desk.does("second", "DEL", how)
    desk.calls()
    with pytest.raises(FailedPrecondition, match=r"'second' \(DEL\) of network 'net'"):
        await desk.network.teardown(ID, "")
    assert desk.verbs() == [("DEL", "second"), ("DEL", "first")]
    assert (desk.recorded(), desk.held()) == ([ID], [f"second-{ID}"])
    (waiting,) = desk.network.details()["waiting"]
    assert (waiting["sandboxID"], waiting["network"], waiting["tries"]) == (ID, "net", 1)
    assert "'second' (DEL)" in waiting["lastError"]
    desk.network.hand_over(ID)
    desk.does("second", "DEL")
    await desk.until(lambda: not desk.recorded() and not desk.network.details()["waiting"])
    assert desk.held() == []


async def test_a_del_that_fails_is_tried_again_by_the_next_daemon(desk: Desk) -> None:
    await desk.network.setup(REQUEST)
    desk.does("first", "DEL", "fail")
    with pytest.raises(FailedPrecondition):
        await desk.network.teardown(ID, "")
    await desk.restart()
    await desk.network.reconcile({ID})  # its sandbox is there: that one's teardown is tried again instead
    assert len(desk.network.details()["waiting"]) == 1
    await desk.restart()
    await desk.network.reconcile(set())
    (waiting,) = desk.network.details()["waiting"]
    assert waiting["tries"] >= 2  # on a slow machine it was tried again meanwhile
    desk.does("first", "DEL")
    await desk.restart()
    await desk.network.reconcile(set())
    await desk.until(lambda: not desk.recorded() and not desk.network.details()["waiting"])
    assert desk.held() == []


async def test_a_plugin_that_is_gone_does_not_stop_the_del_of_others(desk: Desk) -> None:
    await desk.network.setup(REQUEST)
    desk.remove("second")
    with pytest.raises(FailedPrecondition, match=r"'second' \(DEL\) .* is in none of .*: install it"):
        await desk.network.teardown(ID, "")
    assert desk.held() == [f"second-{ID}"]
    desk.install("second")
    await desk.network.teardown(ID, "")
    assert (desk.recorded(), desk.held()) == ([], [])


async def test_a_del_that_hangs_is_joined_not_doubled(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shim.network.cni._TEARDOWN_PATIENCE_S", 0.5)
    await desk.network.setup(REQUEST)
    desk.calls()
    await desk.restart(timeout_s=3)
    desk.does("second", "DEL", "hang")
    for _ in range(2):
        with pytest.raises(DeadlineExceeded, match="still runs after"):
            await desk.network.teardown(ID, NETNS)
    await desk.until(desk.hangs)
    assert desk.verbs() == [("DEL", "second")]
    await desk.until(lambda: desk.network.details()["waiting"])
    assert "took more than 3 s" in desk.network.details()["waiting"][0]["lastError"]
    assert desk.held() == [f"second-{ID}"]


async def test_a_pod_that_a_plugin_does_not_know_needs_no_cleaning(desk: Desk) -> None:
    await desk.network.setup(REQUEST)
    desk.does("second", "DEL", "unknown")
    await desk.network.teardown(ID, "")
    assert desk.recorded() == []


async def test_rubbish_is_no_failure_of_a_del(desk: Desk) -> None:
    await desk.network.setup(REQUEST)
    desk.does("second", "DEL", "rubbish")
    await desk.network.teardown(ID, "")
    assert desk.recorded() == []


async def test_a_namespace_that_is_gone_is_not_named(desk: Desk) -> None:
    await desk.network.setup(REQUEST)
    desk.calls()
    left = desk.path / "an-empty-file-where-it-was-pinned"
    left.touch()
    await desk.network.teardown(ID, str(left))
    assert [call[2] for call in desk.calls()] == ["gone", "gone"]


async def test_a_record_that_cannot_be_read_is_set_aside_and_today_s_configuration_used(desk: Desk) -> None:
    await desk.network.setup(REQUEST)
    (desk.records / f"{ID}.json").write_text("{")
    with pytest.raises(UnreadableRecord):
        await desk.network.check(ID)
    there = desk.file.read_text()
    desk.file.unlink()
    with pytest.raises(FailedPrecondition, match="no CNI configuration"):
        await desk.network.teardown(ID, NETNS)
    desk.file.write_text(there)
    await desk.network.teardown(ID, NETNS)
    assert (desk.recorded(), desk.held()) == ([], [])
    assert (desk.path / "quarantine" / f"cni-{ID}.json").exists()


async def test_an_annotation_that_makes_no_sense_is_refused_before_anything_is_made(desk: Desk) -> None:
    desk.file.write_text(
        json.dumps(
            {"cniVersion": "1.0.0", "name": "net", "type": "first", "capabilities": {"bandwidth": True}}
        )
    )
    wrong = dataclasses.replace(REQUEST, annotations={INGRESS: "fast"})
    with pytest.raises(InvalidArgument, match=r"kubernetes\.io/ingress-bandwidth must be .* not 'fast'"):
        await desk.network.setup(wrong)
    assert desk.calls() == []
    await desk.network.setup(dataclasses.replace(REQUEST, annotations={INGRESS: "10M"}))
    ((_, _, _, given),) = desk.calls()
    assert given["runtimeConfig"] == {"bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 2**31 - 1}}


async def test_the_node_s_range_is_told_also_after_a_restart(desk: Desk) -> None:
    desk.configure(plugins=[{"type": "first", "capabilities": {"ipRanges": True}}])
    await desk.network.update_pod_cidr("10.1.0.0/24,fd00:1::/64")
    await desk.restart()
    await desk.network.setup(REQUEST)
    ((_, _, _, given),) = desk.calls()
    assert given["runtimeConfig"] == {"ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}
    with pytest.raises(InvalidArgument, match=r"pod CIDR '10\.1\.0\.0/240' cannot be used"):
        await desk.network.update_pod_cidr("10.1.0.0/240")
    await desk.network.reconcile(set())
    assert desk.recorded() == ["pod-cidr"]


async def test_check_asks_each_plugin_in_turn(desk: Desk) -> None:
    assert await desk.network.check(ID) == "not asked: the sandbox has no network"
    await desk.network.setup(REQUEST)
    desk.calls()
    assert await desk.network.check(ID) == "ok"
    assert by(desk.calls()) == [("CHECK", "first", NETNS, "second"), ("CHECK", "second", NETNS, "second")]
    desk.does("first", "CHECK", "fail")
    with pytest.raises(FailedPrecondition, match=r"'first' \(CHECK\) .* broken"):
        await desk.network.check(ID)


@pytest.mark.parametrize(
    ("version", "more", "why"),
    [("1.0.0", {"disableCheck": True}, "disableCheck"), ("0.3.1", {}, "CNI version 0.3.1 has no CHECK")],
)
async def test_check_is_not_called_where_it_must_not_be(
    desk: Desk, version: str, more: dict[str, Any], why: str
) -> None:
    for name in desk.plugins:
        desk.speaks(name, version)
    desk.configure(version, **more)
    await desk.network.setup(REQUEST)
    desk.calls()
    assert why in await desk.network.check(ID)
    assert desk.calls() == []


async def test_gc_comes_once_after_a_start_and_names_what_is_to_stay(desk: Desk) -> None:
    desk.configure("1.1.0")
    await desk.network.setup(REQUEST)
    await desk.network.setup(dataclasses.replace(REQUEST, sandbox_id=OTHER))
    (desk.bin_dir / "held" / "first-stale").touch()
    await desk.restart()
    desk.calls()
    await desk.network.reconcile({ID})
    calls = desk.calls()
    assert [call[:2] for call in calls] == [
        ("DEL", "second"),
        ("DEL", "first"),
        ("GC", "first"),
        ("GC", "second"),
    ]
    assert calls[-1][3]["cni.dev/valid-attachments"] == [{"containerID": ID, "ifname": "eth0"}]
    assert desk.held() == [f"first-{ID}", f"second-{ID}"]
    assert (await desk.network.status()).ready
    assert [verb for verb, _ in desk.verbs()] == ["STATUS", "STATUS"]


async def test_gc_comes_with_a_configuration_that_comes_later(desk: Desk) -> None:
    text = desk.file.read_text().replace("1.0.0", "1.1.0")
    desk.file.unlink()
    await desk.network.reconcile(set())
    (desk.bin_dir / "held" / "first-stale").touch()
    desk.file.write_text(text)
    assert (await desk.network.status()).ready
    await desk.until(lambda: not desk.held())


@pytest.mark.parametrize(("version", "more"), [("1.0.0", {}), ("1.1.0", {"disableGC": True})])
async def test_gc_is_not_called_where_it_must_not_be(desk: Desk, version: str, more: dict[str, Any]) -> None:
    desk.configure(version, **more)
    await desk.network.reconcile(set())
    assert desk.calls() == []


@pytest.mark.parametrize("how", ["fail", "hang"])
async def test_a_gc_that_fails_stops_nobody(desk: Desk, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shim.network.cni._GC_S", 3.0)
    desk.configure("1.1.0")
    desk.does("first", "GC", how)
    await desk.network.reconcile(set())
    assert desk.verbs() == [("GC", "first"), ("GC", "second")]
    await desk.network.setup(REQUEST)


async def test_many_pods_at_once(desk: Desk) -> None:
    ids = [f"{number:064x}" for number in range(20)]
    await asyncio.gather(*(desk.network.setup(dataclasses.replace(REQUEST, sandbox_id=id_)) for id_ in ids))
    assert desk.recorded() == ids
    await asyncio.gather(*(desk.network.teardown(id_, NETNS) for id_ in ids))
    assert (desk.recorded(), desk.held()) == ([], [])


async def test_a_setup_whose_caller_leaves_goes_on(desk: Desk) -> None:
    desk.does("first", "ADD", "late")
    task = asyncio.ensure_future(desk.network.setup(REQUEST))
    await desk.until(desk.hangs)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await desk.until(lambda: f"second-{ID}" in desk.held())
    await desk.network.teardown(ID, NETNS)
    assert (desk.recorded(), desk.held()) == ([], [])
