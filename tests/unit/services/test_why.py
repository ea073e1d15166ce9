from typing import Any

import pytest

from shim.errors import InvalidArgument, NotFound
from shim.model.timeline import Entry
from shim.services.containers.create import create_container
from shim.services.containers.start import start_container
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.why import conclude, is_meant, why

ID = "ab12" + "0" * 60


@pytest.mark.parametrize(
    ("key", "subject", "meant"),
    [
        (ID, ID, True),
        (ID, "ab12", True),
        (ID, "ab1", False),  # too short to be a prefix
        (f"sha256:{ID}", "ab12", True),
        (f"sha256:{ID}", "sha256:ab12", True),
        ("default/web", "default/web", True),
        ("default/web", "web", True),
        ("default/web/app", "web", False),
        ("default/web/app", "app", True),
        ("default/web/app", "web/app", True),
        ("default/ab12cd", "ab12", False),
        ("docker.io/library/busybox:latest", "busybox", True),
        ("docker.io/library/busybox:1", "busybox", False),
    ],
)
def test_objects_are_meant_by_id_prefix_and_name(key: str, subject: str, meant: bool) -> None:
    assert is_meant(key, subject) is meant


def failed(what: str, text: str, *keys: str, stage: str = "", times: int = 1) -> Entry:
    return Entry(1, what, keys or ("k",), text, ok=False, stage=stage, times=times)


@pytest.mark.parametrize(
    ("entries", "waiting", "conclusion"),
    [
        (
            [
                failed("RunPodSandbox", "no address", stage="network", times=3),
                Entry(2, "StopPodSandbox", ("k",)),
            ],
            (),
            "RunPodSandbox failed at stage 'network' (3 times): no address",
        ),
        # Mended by the next try.
        (
            [failed("PullImage", "no host"), Entry(2, "PullImage", ("k",))],
            (),
            "nothing went wrong: PullImage",
        ),
        # Another container's success mends nothing.
        (
            [failed("StartContainer", "missing", "a"), Entry(2, "StartContainer", ("b",))],
            (),
            "StartContainer failed: missing",
        ),
        ([failed("exit", "exit code 1")], (), "exit: exit code 1"),
        ([Entry(1, "exit", ("k",), "exit code 0")], ("teardown: x",), "still being tried: teardown: x"),
        ([], (), "nothing went wrong: pod"),
    ],
)
def test_the_last_thing_that_was_not_mended_is_the_cause(
    entries: list[Entry], waiting: tuple[str, ...], conclusion: str
) -> None:
    assert conclude(entries, waiting, "pod") == conclusion


async def test_an_end_names_its_cause(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    container = await create_container(bench.node, sandbox, bench.container())
    await start_container(bench.node, container)
    bench.world.end(container, 137, 9, oom_kills=1)
    await bench.until(lambda: why(bench.node, container).entries)
    for subject in (container, container[:8], "web/app", "default/web", sandbox[:10]):
        told = why(bench.node, subject)
        assert "OOMKilled" in told.conclusion
    assert "EXITED, exit code 137" in why(bench.node, container).title
    assert "READY" in why(bench.node, "web").title


async def test_what_is_still_tried_is_told(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())

    async def never() -> bool:
        raise OSError("the plugin hangs")

    bench.node.background.retry(f"teardown of sandbox {sandbox}", never)
    await bench.until(lambda: why(bench.node, sandbox).waiting)
    assert why(bench.node, "web").waiting[0].startswith(f"teardown of sandbox {sandbox}: failed 1 times")


async def test_an_image_is_explained_by_its_names(bench: Any) -> None:
    told = why(bench.node, "docker.io/library/app")
    assert told.title == "image docker.io/library/app:latest: here, 1000 bytes"
    assert told.conclusion.startswith("nothing went wrong")


async def test_what_nobody_knows_is_refused(bench: Any) -> None:
    with pytest.raises(NotFound, match="nobody"):
        why(bench.node, "nobody")
    with pytest.raises(InvalidArgument, match="subject is empty"):
        why(bench.node, "")
