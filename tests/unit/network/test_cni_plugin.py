"""One run of a CNI plugin: what goes in, what its failures mean."""

import json
from pathlib import Path

import pytest

from shim.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from shim.network import cni_plugin


@pytest.fixture
def plugin(tmp_path: Path):
    def write(script: str) -> list[str]:
        path = tmp_path / "fake"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
        return [str(tmp_path / "missing"), str(tmp_path)]

    return write


async def run(bin_dirs: list[str], stdin: bytes = b"{}", timeout_s: float = 10) -> dict[str, object]:
    settings = {"CNI_CONTAINERID": "ab"}
    return await cni_plugin.run("fake", "ADD", settings, stdin, bin_dirs=bin_dirs, timeout_s=timeout_s)


async def test_it_reads_its_configuration_and_its_variables(
    plugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    bin_dirs = plugin('printf \'{"in":%s,"env":"%s"}\' "$(cat)" "$CNI_COMMAND $CNI_PATH$NOTIFY_SOCKET"')
    answer = await run(bin_dirs, b'{"name":"net"}')
    assert answer == {"in": {"name": "net"}, "env": f"ADD {tmp_path}/missing:{tmp_path}"}


async def test_no_answer_is_an_empty_one(plugin) -> None:
    assert await run(plugin("exit 0")) == {}


async def test_its_own_words_come_first(plugin) -> None:
    error = {"cniVersion": "1.0.0", "code": 7, "msg": "no subnet", "details": "ask somebody"}
    with pytest.raises(FailedPrecondition) as caught:
        await run(plugin(f"echo '{json.dumps(error)}'; echo noise >&2; exit 1"))
    assert str(caught.value) == (
        "CNI plugin 'fake' (ADD) failed with exit code 1: no subnet; ask somebody (stderr: noise)"
    )


async def test_without_words_there_is_stderr(plugin) -> None:
    with pytest.raises(FailedPrecondition, match="failed with exit code 3: it broke"):
        await run(plugin("echo it broke >&2; exit 3"))
    with pytest.raises(FailedPrecondition, match="failed with signal 9: it said nothing"):
        await run(plugin("kill -9 $$"))


async def test_code_11_means_try_again(plugin) -> None:
    with pytest.raises(Unavailable, match="not yet"):
        await run(plugin('echo \'{"code":11,"msg":"not yet"}\'; exit 1'))


async def test_one_that_hangs_is_killed(plugin) -> None:
    with pytest.raises(DeadlineExceeded, match=r"took more than 0\.1 s"):
        await run(plugin("sleep 1000"), timeout_s=0.1)


@pytest.mark.parametrize("words", ["nonsense", "[]"])
async def test_an_answer_must_be_a_json_object(plugin, words: str) -> None:
    with pytest.raises(FailedPrecondition, match="answered no JSON"):
        await run(plugin(f"echo '{words}'"))


async def test_one_that_is_not_installed_is_named() -> None:
    with pytest.raises(FailedPrecondition, match="'fake' is in none of /nowhere: install it"):
        await run(["/nowhere"])
