import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from shim.errors import ResourceExhausted
from shim.model.timeline import Entry
from shim.services import timeline
from shim.services.containers.create import create_container
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.timeline import Timeline, entry_of_call, keys_of_call
from shim.stages import Operation, operation, stage
from shim.store.journal import Journal
from shim.threads import Pool


def entry(text: str = "no", at_ns: int = 1, **changes: Any) -> Entry:
    return Entry(at_ns, "RunPodSandbox", ("default/web",), text, ok=False, **changes)


def test_entries_are_found_by_each_of_their_keys() -> None:
    kept = Timeline()
    kept.add(Entry(1, "exit", ("a", "default/web")))
    kept.add(Entry(2, "exit", ("b",)))
    assert [each.at_ns for each in kept.find(["default/web", "b"])] == [1, 2]
    assert [each.at_ns for each in kept.find(["a"])] == [1]
    assert kept.find(["c"]) == []
    assert kept.matching(lambda key: key.startswith("default/")) == {"default/web"}


def test_the_same_failure_again_and_again_is_one_entry() -> None:
    kept = Timeline()
    for number in range(5):
        kept.add(entry(at_ns=number))
        kept.add(Entry(number, "exit", ("other",)))
    assert [(each.at_ns, each.times) for each in kept.find(["default/web"])] == [(4, 5)]
    assert len(kept.find(["other"])) == 5


def test_its_size_is_bounded() -> None:
    kept = Timeline()
    for number in range(timeline.MAX_ENTRIES + 10):
        kept.add(entry(f"{number} " + "x" * 5000))
    found = kept.find(["default/web"])
    assert len(found) == timeline.MAX_ENTRIES
    assert found[0].text.startswith("10 ")
    assert all(len(each.text) == timeline.MAX_TEXT for each in found)


async def test_the_next_daemon_knows_what_this_one_told(tmp_path: Path) -> None:
    pool = Pool("journal", 1)
    first = Timeline(Journal(str(tmp_path), 1 << 20), pool)
    for number in range(100):
        first.add(entry(str(number)))
    first.add(entry("99"))
    await first.close()
    second = Timeline(Journal(str(tmp_path), 1 << 20), pool)
    await second.load()
    assert second.find(["default/web"]) == first.find(["default/web"])
    assert second.find(["default/web"])[-1].times == 2
    pool.close()


async def test_what_happens_together_is_written_at_once(tmp_path: Path) -> None:
    written: list[int] = []

    class Counted(Journal):
        def append(self, entries: Iterable[Entry]) -> None:
            listed = list(entries)
            written.append(len(listed))
            super().append(listed)

    pool = Pool("journal", 1)
    kept = Timeline(Counted(str(tmp_path), 1 << 20), pool)
    for number in range(20):
        kept.add(entry(str(number)))
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while not written:
            await asyncio.sleep(timeline.WRITTEN_AFTER_S / 10)
    kept.add(entry("later"))
    await kept.close()
    assert written == [20, 1]
    pool.close()


async def test_a_disk_that_fails_costs_the_journal_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal").write_text("this is no directory")
    pool = Pool("journal", 1)
    kept = Timeline(Journal(str(tmp_path / "journal"), 1 << 20), pool)
    kept.add(entry())
    await kept.close()
    assert len(kept.find(["default/web"])) == 1
    assert "cannot be written" in caplog.text
    pool.close()


async def test_a_call_concerns_its_objects_by_id_and_by_name(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    container = await create_container(bench.node, sandbox, bench.container())
    made = keys_of_call(bench.node, {"method": "CreateContainer", "sandbox": sandbox[:12], "name": "app"})
    assert made == (sandbox, "default/web", "default/web/app")
    stopped = keys_of_call(bench.node, {"method": "StopContainer", "container": container[:12]})
    assert stopped == (container, sandbox, "default/web", "default/web/app")
    assert keys_of_call(bench.node, {"method": "StopContainer", "container": "nobody"}) == ("nobody",)
    pulled = keys_of_call(bench.node, {"method": "PullImage", "image": "busybox", "pod": "default/web"})
    assert pulled == ("default/web", "busybox", "docker.io/library/busybox:latest")
    assert keys_of_call(bench.node, {"method": "PullImage", "image": "NO SUCH"}) == ("NO SUCH",)


def operation_with(*names: str, error: Exception | None = None) -> Operation:
    with operation() as begun:
        for name in names:
            try:
                with stage(name):
                    if error is not None and name == names[-1]:
                        raise error
            except ResourceExhausted:
                pass
    return begun


def test_a_call_that_failed_tells_its_stage_and_its_error() -> None:
    error = ResourceExhausted("no address is left")
    begun = operation_with("files", "network", error=error)
    told = entry_of_call(begun.began_ns + 5_000_000, "RunPodSandbox", ("k",), begun, error)
    assert told is not None
    assert (told.ok, told.stage, told.text, told.took_us) == (False, "network", "no address is left", 5000)
    assert [(each.name, each.failed) for each in told.stages] == [("files", False), ("network", True)]


@pytest.mark.parametrize(
    ("method", "stages", "error", "told"),
    [
        ("RunPodSandbox", (), None, True),
        ("StopPodSandbox", ("containers",), None, True),
        ("StopPodSandbox", (), None, False),  # there was nothing to stop any more
        ("ExecSync", ("cgroup",), None, False),
        ("ExecSync", ("cgroup",), ResourceExhausted("x"), True),
    ],
)
def test_only_what_a_person_may_ask_for_is_told(
    method: str, stages: tuple[str, ...], error: Exception | None, told: bool
) -> None:
    begun = operation_with(*stages)
    assert (entry_of_call(begun.began_ns, method, ("k",), begun, error) is not None) == told
