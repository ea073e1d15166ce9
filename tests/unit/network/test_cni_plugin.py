"""One run of a CNI plugin: what goes in, what its failures mean."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from shim.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from shim.network import cni_plugin
from shim.network.cni_plugin import Call, PluginFailed

WHO = "CNI plugin 'fake' (ADD) of network 'net' in /etc/net.conf"


@pytest.fixture
def plugin(tmp_path: Path):
    def write(script: str, first: str = "#!/bin/sh\n") -> list[str]:
        path = tmp_path / "fake"
        path.write_text(first + script)
        path.chmod(0o755)
        return [str(tmp_path / "missing"), str(tmp_path)]

    return write


def is_alive(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def call(stdin: bytes = b"{}") -> Call:
    return Call("fake", "ADD", "net", "/etc/net.conf", stdin, {"CNI_CONTAINERID": "ab"})


async def run(bin_dirs: list[str], stdin: bytes = b"{}", timeout_s: float = 10) -> bytes:
    return await cni_plugin.run(call(stdin), bin_dirs=bin_dirs, timeout_s=timeout_s, mark="/records")


async def test_it_reads_its_configuration_and_its_variables(
    plugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("CNI_COMMAND", "nonsense")
    bin_dirs = plugin(
        'printf \'{"in":%s,"env":"%s"}\' "$(cat)" "$CNI_COMMAND $CNI_PATH$NOTIFY_SOCKET $CRI_SHIM_PLUGIN_OF"'
    )
    answer = await run(bin_dirs, b'{"name":"net"}')
    assert json.loads(answer) == {
        "in": {"name": "net"},
        "env": f"ADD {tmp_path}/missing:{tmp_path} /records",
    }


async def test_its_own_words_come_first(plugin) -> None:
    error = {"cniVersion": "1.0.0", "code": 7, "msg": "no subnet", "details": "ask somebody"}
    with pytest.raises(PluginFailed) as caught:
        await run(plugin(f"echo '{json.dumps(error)}'; echo noise >&2; exit 1"))
    assert str(caught.value) == (f"{WHO} failed with exit code 1: no subnet; ask somebody (stderr: noise)")
    assert caught.value.code == 7


async def test_without_words_there_is_stderr(plugin) -> None:
    with pytest.raises(FailedPrecondition, match="failed with exit code 3: it broke"):
        await run(plugin("echo it broke >&2; exit 3"))
    with pytest.raises(FailedPrecondition, match="failed with signal 9: it said nothing"):
        await run(plugin("kill -9 $$"))
    with pytest.raises(FailedPrecondition, match=r"failed with exit code 1: odd \(stderr: two lines\)"):
        await run(plugin("echo odd; printf 'two\\nlines\\n' >&2; exit 1"))


async def test_what_it_says_is_bounded_and_its_end_is_kept(plugin) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await run(plugin("yes | head -c 3000000 >&2; echo the end >&2; exit 1"))
    assert str(caught.value).endswith("y the end")
    assert len(str(caught.value)) < 2200


async def test_code_11_means_try_again(plugin) -> None:
    with pytest.raises(Unavailable, match="not yet"):
        await run(plugin('echo \'{"code":11,"msg":"not yet"}\'; exit 1'))


async def test_one_that_hangs_is_killed_with_its_children(plugin, tmp_path: Path) -> None:
    hangs = plugin(f"echo working >&2; sleep 1000 & echo $! >{tmp_path}/child; wait")
    with pytest.raises(DeadlineExceeded, match="took more than 2 s and was killed, it said: working"):
        await run(hangs, timeout_s=2)  # long enough to get as far as that on a machine with other work
    child = (tmp_path / "child").read_text().strip()
    deadline = time.monotonic() + 20
    while is_alive(child):
        assert time.monotonic() < deadline, "a child of the plugin lives on"


async def test_a_child_that_keeps_its_output_open_holds_up_nobody(plugin, tmp_path: Path) -> None:
    answer = await run(plugin(f"sleep 1000 & echo $! >{tmp_path}/child; echo '{{}}'"))
    child = int((tmp_path / "child").read_text())
    assert answer == b"{}\n"
    os.kill(child, signal.SIGKILL)  # it was there: it may be meant to stay


async def test_one_that_does_not_read_is_no_failure(plugin) -> None:
    assert await run(plugin("exec <&-; echo '{}'"), b"x" * 1_000_000) == b"{}\n"


@pytest.mark.parametrize("words", ["nonsense", "[]", "[" * 100_000])
def test_an_answer_must_be_a_json_object(words: str) -> None:
    with pytest.raises(FailedPrecondition, match="answered no JSON"):
        cni_plugin.parse_answer(call(), words.encode())


def test_no_answer_is_none() -> None:
    with pytest.raises(FailedPrecondition, match="answered nothing"):
        cni_plugin.parse_answer(call(), b" \n")


async def test_one_that_is_not_installed_is_named() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await run(["/nowhere"])
    assert str(caught.value) == f"{WHO} cannot be run: it is in none of /nowhere: install it"


async def test_one_that_cannot_be_run_is_named(plugin, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=f"run: {tmp_path}/fake: No such file or directory"):
        await run(plugin("", "#!/no/such/interpreter\n"))
    with pytest.raises(FailedPrecondition, match="Exec format error"):
        await run(plugin("\0", "\x7fELF"))


async def test_one_that_is_being_replaced_is_to_be_tried_again(plugin, tmp_path: Path) -> None:
    bin_dirs = plugin("")
    with (tmp_path / "fake").open("r+"), pytest.raises(Unavailable, match="Text file busy"):
        await run(bin_dirs)
