"""CNI with a plugin that only writes down how it was called."""

import json
from pathlib import Path

import pytest

from shim.errors import AlreadyExists, FailedPrecondition
from shim.network.cni import CniNetwork
from shim.network.plugin import SetupRequest
from shim.network.settings import CniSettings

ID = "ab" * 32
SCRIPT = """#!/bin/sh
read -r config
echo "$CNI_COMMAND $(basename $0) ${CNI_NETNS:-gone} $config" >> "$(dirname $0)/calls"
[ -e "$(dirname $0)/fail-$CNI_COMMAND-$(basename $0)" ] && { echo '{"msg":"broken"}'; exit 1; }
[ $CNI_COMMAND = ADD ] && echo '{"ips":[{"address":"10.0.0.2/24"}],"by":"'$(basename $0)'"}'
exit 0
"""
CONFIGURATION = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "first"}, {"type": "second"}]}
REQUEST = SetupRequest(ID, "web", "default", "u1", "/proc/self/ns/net")


class Bed:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = CniSettings(
            str(path / "records"), str(path / "quarantine"), (str(path),), (str(path),), 10
        )
        for name in ("first", "second"):
            (path / name).write_text(SCRIPT)
            (path / name).chmod(0o755)
        (path / "net.conflist").write_text(json.dumps(CONFIGURATION))

    def calls(self) -> list[tuple[str, str, str, str]]:
        """(command, plugin, namespace, who made the result it got), since the last call."""
        path = self.path / "calls"
        lines = [line.split(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return [
            (c, p, n, json.loads(config).get("prevResult", {}).get("by", "")) for c, p, n, config in lines
        ]


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


async def test_each_plugin_gets_the_result_of_the_one_before(bed: Bed) -> None:
    network = CniNetwork(bed.settings)
    result = await network.setup(REQUEST)
    assert result.ips == ("10.0.0.2",)
    assert bed.calls() == [
        ("ADD", "first", "/proc/self/ns/net", ""),
        ("ADD", "second", "/proc/self/ns/net", "first"),
    ]
    with pytest.raises(AlreadyExists):
        await network.setup(REQUEST)
    await network.close()


async def test_del_after_a_restart_is_as_add_was(bed: Bed) -> None:
    network = CniNetwork(bed.settings)
    await network.setup(REQUEST)
    await network.close()
    bed.calls()
    (bed.path / "net.conflist").unlink()
    network = CniNetwork(bed.settings)
    await network.teardown(ID, "/proc/self/ns/net")
    assert bed.calls() == [
        ("DEL", "second", "/proc/self/ns/net", "second"),
        ("DEL", "first", "/proc/self/ns/net", "second"),
    ]
    await network.teardown(ID, "")
    assert bed.calls() == []
    await network.close()


async def test_an_add_that_fails_is_undone(bed: Bed) -> None:
    (bed.path / "fail-ADD-second").touch()
    network = CniNetwork(bed.settings)
    with pytest.raises(FailedPrecondition, match=r"'second' \(ADD\) failed with exit code 1: broken"):
        await network.setup(REQUEST)
    assert [call[:2] for call in bed.calls()][2:] == [("DEL", "second"), ("DEL", "first")]
    assert list((bed.path / "records").iterdir()) == []
    await network.close()


async def test_a_del_that_fails_is_tried_again(bed: Bed) -> None:
    network = CniNetwork(bed.settings)
    await network.setup(REQUEST)
    (bed.path / "fail-DEL-first").touch()
    with pytest.raises(FailedPrecondition, match="broken"):
        await network.teardown(ID, "")
    await network.reconcile({ID})
    (bed.path / "fail-DEL-first").unlink()
    bed.calls()
    await network.reconcile(set())
    assert len(bed.calls()) == 2
    assert list((bed.path / "records").iterdir()) == []
    await network.close()


async def test_a_namespace_that_is_gone_is_not_named(bed: Bed) -> None:
    network = CniNetwork(bed.settings)
    await network.setup(REQUEST)
    bed.calls()
    left = bed.path / "an-empty-file-where-it-was-pinned"
    left.touch()
    await network.teardown(ID, str(left))
    assert [call[2] for call in bed.calls()] == ["gone", "gone"]
    await network.close()


async def test_a_record_that_cannot_be_read_is_set_aside(bed: Bed) -> None:
    network = CniNetwork(bed.settings)
    await network.setup(REQUEST)
    (bed.path / "records" / f"{ID}.json").write_text("{")
    with pytest.raises(FailedPrecondition, match="stays as it is"):
        await network.teardown(ID, "")
    await network.teardown(ID, "")
    assert (bed.path / "quarantine" / f"cni-{ID}.json").exists()
    await network.close()


async def test_it_is_ready_when_the_plugins_are_there(bed: Bed) -> None:
    network = CniNetwork(bed.settings)
    assert (await network.status()).ready
    (bed.path / "second").unlink()
    condition = await network.status()
    assert (condition.ready, condition.reason) == (False, "NetworkPluginNotReady")
    assert "'second' is in none of" in condition.message
    await network.close()
