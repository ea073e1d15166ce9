"""A try at each host, step by step, and where it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, TokenServer, running

from shim.errors import FailedPrecondition, InvalidArgument
from shim.images.probe import Step
from shim.images.store import ImageStore
from shim.model.image import Auth

pytestmark = [pytest.mark.root, pytest.mark.registry]

ALICE = Auth(username="alice", password="s3cret")


@pytest.fixture(scope="module")
def name(registry: Any, tools: Any) -> str:
    built = tools.image(tools.tar(("file", os.urandom(100_000))))
    index = tools.index((built, "amd64"), (built, "arm64"))
    return str(registry.push("probed/app", "v1", index))


async def steps(store: ImageStore, name: str, auth: Auth | None = None) -> list[Step]:
    return [step async for step in store.probe(name, auth)]


def configure(certs: Path, host: str, text: str) -> None:
    (certs / host).mkdir()
    (certs / host / "hosts.toml").write_text(text)


async def test_every_step_is_timed(store: ImageStore, name: str) -> None:
    found = await steps(store, name)
    assert [step.name for step in found] == ["connect", "manifest", "blob"]
    assert not any(step.error for step in found)
    assert all(step.seconds > 0 for step in found)
    assert "127.0.0.1 port" in found[0].detail
    assert "image.index.v1+json sha256:" in found[1].detail
    assert "the first " in found[2].detail
    assert store.list() == []
    assert store.counters.pulls == 0


async def test_tls_and_login_are_steps_of_their_own(
    registry: Any, store: ImageStore, tools: Any, identity: Path, certs: Path, tmp_path: Path, name: str
) -> None:
    tokens = TokenServer(identity)
    tls = {"certificate": str(identity / "cert.pem"), "key": str(identity / "key.pem")}
    settings = {"auth": tokens.settings(), "http": {"tls": tls}}
    with running(tokens), tools.serve(tmp_path / "tls", registry.storage, **settings) as server:
        named = name.replace(registry.host, server.host)
        configure(certs, server.host, f'server = "https://{server.host}"\nca = "{identity}/cert.pem"\n')
        (connect, tls_step, login) = await steps(store, named)
        assert (connect.error, tls_step.error) == ("", "")
        assert tls_step.detail.startswith("TLSv1.")
        assert "authorization failed: HTTP 401" in login.error or "without encryption" in login.error
        (certs / server.host / "hosts.toml").write_text(f'server = "https://{server.host}"\n')
        assert [
            (step.name, "certificate verify failed" in step.error) for step in await steps(store, named)
        ] == [
            ("connect", False),
            ("tls", True),
        ]


async def test_a_login_tells_whose_credentials_were_shown(
    registry: Any, store: ImageStore, tools: Any, identity: Path, tmp_path: Path, name: str
) -> None:
    tokens = TokenServer(identity)
    with running(tokens), tools.serve(tmp_path / "t", registry.storage, auth=tokens.settings()) as server:
        found = await steps(store, name.replace(registry.host, server.host), ALICE)
        assert [step.name for step in found] == ["connect", "login", "manifest", "blob"]
        assert "of the request (user 'alice')" in found[1].detail
        assert tokens.host in found[1].detail
        assert "s3cret" not in repr(found)
        refused = await steps(
            store, name.replace(registry.host, server.host), Auth(username="alice", password="no")
        )
        assert refused[-1].name == "login"
        assert "who are you" in refused[-1].error


async def test_each_host_is_tried_and_told_where_it_ends(
    registry: Any, store: ImageStore, tools: Any, fakes: Any, certs: Path, name: str
) -> None:
    broken = fakes()
    dead = f"127.0.0.1:{tools.free_port()}"  # after what listens, else that might get the same port
    broken.answers[""] = Answer(500)
    hosts = (f'"http://{dead}"', f'"http://{broken.host}"', '"http://none.invalid"')
    tables = "".join(f"[host.{host}]\n" for host in hosts)
    configure(certs, registry.host, f'{tables}[host."http://{registry.host}/"]\ncapabilities = ["pull"]\n')
    found = [(step.url.partition("/v2")[0], step.name, bool(step.error)) for step in await steps(store, name)]
    own = f"http://{registry.host}"
    assert found == [
        (f"http://{dead}", "connect", True),
        (f"http://{broken.host}", "connect", False),
        (f"http://{broken.host}", "manifest", True),
        ("http://none.invalid", "dns", True),
        (own, "manifest", False),  # it may not resolve tags, and nobody else did
        (own, "connect", False),
        (own, "manifest", False),
        (own, "blob", False),
    ]


async def test_a_mistake_is_told_at_once(store: ImageStore, open_store: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        await steps(store, "UPPER")
    async with open_store(tmp_path / "other", offline=True) as alone:
        with pytest.raises(FailedPrecondition, match="offline"):
            await steps(alone, "busybox")
