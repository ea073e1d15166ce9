import base64
import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition
from shim.images.credentials import Keychain
from shim.model.image import Auth
from shim.threads import Pool

HOST = "registry.example"


@pytest.fixture
def threads() -> Iterator[Pool]:
    pool = Pool("test", 1)
    yield pool
    pool.close()


@pytest.fixture
def keychain(tmp_path: Path, threads: Pool) -> Iterator[Keychain]:
    chain = Keychain(str(tmp_path / "config.json"), threads, deadline_s=60.0)
    yield chain
    chain.close()


def write(folder: Path, **document: object) -> None:
    (folder / "new").write_text(json.dumps(document))
    os.replace(folder / "new", folder / "config.json")


def wait_for_end(pid: str) -> None:
    """Wait until a process that has been killed is one that has ended."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if stat.rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} lives on")


def add_helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture(autouse=True)
def search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def entry(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


async def test_those_of_the_request_come_first(tmp_path: Path, keychain: Keychain) -> None:
    write(tmp_path, auths={HOST: entry("node:n0de")})
    found = await keychain.find(Auth(username="caller", password="c"), HOST, "app")
    assert found.credential is not None
    assert found.credential.username == "caller"
    found = await keychain.find(Auth(username="caller", server_address="else.example"), HOST, "app")
    assert found.credential is not None
    assert found.credential.username == "node"
    assert found.source == f"of {tmp_path}/config.json, '{HOST}' (user 'node')"
    assert "n0de" not in repr(found)
    assert (await keychain.find(None, "else.example", "app")).credential is None


async def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path, keychain: Keychain) -> None:
    for user in ("one", "other"):
        write(tmp_path, auths={HOST: entry(f"{user}:x")})
        found = await keychain.find(None, HOST, "app")
        assert found.credential is not None
        assert found.credential.username == user


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, keychain: Keychain) -> None:
    with pytest.raises(FailedPrecondition, match=r"cannot read .*config\.json \(registry\.docker_config\)"):
        await keychain.find(None, HOST, "app")
    (tmp_path / "config.json").write_bytes(b"{" + bytes(5 << 20))
    with pytest.raises(FailedPrecondition, match="bytes are too many"):
        await keychain.find(None, HOST, "app")


async def test_without_a_file_there_is_nothing(threads: Pool) -> None:
    chain = Keychain("", threads)
    assert (await chain.find(None, HOST, "app")).credential is None
    assert await chain.tell(None, HOST, "app") == "none but those of a request"
    chain.close()


async def test_a_helper_is_asked_for_its_server(tmp_path: Path, keychain: Keychain) -> None:
    write(tmp_path, credHelpers={HOST: "test"}, auths={HOST: entry("file:f")})
    add_helper(
        tmp_path,
        "test",
        'read server; [ "$1" = get ]; echo "{\\"Username\\": \\"$server\\", \\"Secret\\": \\"s\\"}"',
    )
    found = await keychain.find(None, HOST, "app")
    assert found.credential is not None
    assert (found.credential.username, found.credential.password) == (HOST, "s")
    assert "docker-credential-test" in found.source
    told = await keychain.tell(None, HOST, "app")
    assert "docker-credential-test" in told
    assert "user 'file'" in told


async def test_where_a_helper_has_nothing_the_file_may(tmp_path: Path, keychain: Keychain) -> None:
    write(tmp_path, credsStore="empty", auths={HOST: entry("file:f")})
    add_helper(tmp_path, "empty", "echo 'credentials not found in native keychain'; exit 1")
    found = await keychain.find(None, HOST, "app")
    assert found.credential is not None
    assert found.credential.username == "file"
    assert (await keychain.find(None, "else.example", "app")).credential is None


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo s3cret; echo s3cret >&2; exit 3", "failed with exit code 3"),
        ("echo s3cret", "did not print credentials as JSON"),
        ("head -c 2000000 /dev/zero", "printed 2000000 bytes"),
        (None, "cannot be started: No such file"),
    ],
)
async def test_a_helper_that_fails_is_told_without_its_words(
    tmp_path: Path, keychain: Keychain, script: str | None, why: str
) -> None:
    write(tmp_path, credsStore="bad")
    if script is not None:
        add_helper(tmp_path, "bad", script)
    with pytest.raises(FailedPrecondition, match=why) as caught:
        await keychain.find(None, HOST, "app")
    assert "docker-credential-bad" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_helper_that_hangs_is_killed_with_its_children(tmp_path: Path, threads: Pool) -> None:
    write(tmp_path, credsStore="slow")
    add_helper(tmp_path, "slow", f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    child, deadline_s = "", 0.5
    while not child:  # on a busy machine it may not have begun in time
        chain = Keychain(str(tmp_path / "config.json"), threads, deadline_s)
        with pytest.raises(FailedPrecondition, match=f"took more than {deadline_s:g} seconds"):
            await chain.find(None, HOST, "app")
        chain.close()
        with contextlib.suppress(FileNotFoundError):
            child = (tmp_path / "child").read_text().strip()
        deadline_s *= 4
    wait_for_end(child)
