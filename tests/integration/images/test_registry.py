"""Registries as they are met: with certificates, with passwords, with tokens, moved, broken and lying."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, Request, TokenServer, running

from shim.errors import FailedPrecondition, NotFound, RegistryUnavailable
from shim.images.auth import Unauthorized
from shim.images.store import ImageStore
from shim.model.image import Auth

pytestmark = [pytest.mark.root, pytest.mark.registry]

# "s3cret" of "alice", by bcrypt: the only kind that docker-registry reads.
HTPASSWD = "alice:$2b$04$qqc1v8D1qrZXukO.VS8S6O.o.YxB5sGY/tb56RkAV39zqq8fQFG9G\n"
ALICE = Auth(username="alice", password="s3cret")


def configure(certs: Path, host: str, text: str) -> None:
    directory = certs / host
    directory.mkdir()
    (directory / "hosts.toml").write_text(text)


@pytest.fixture
def pushed(registry: Any, tools: Any) -> Any:
    built = tools.image(tools.tar(("file", os.urandom(300_000))))
    registry.push("private/app", "v1", built)
    return built


async def test_https_needs_a_certificate_that_is_trusted(
    registry: Any, store: ImageStore, tools: Any, pushed: Any, identity: Path, certs: Path, tmp_path: Path
) -> None:
    tls = {"certificate": str(identity / "cert.pem"), "key": str(identity / "key.pem")}
    with tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}) as server:
        configure(certs, server.host, f'server = "https://{server.host}"')
        name = f"{server.host}/private/app:v1"
        with pytest.raises(RegistryUnavailable, match="certificate verify failed"):
            await store.pull(name, None)
        (certs / server.host / "own.pem").write_bytes((identity / "cert.pem").read_bytes())
        for table in ('ca = "own.pem"', "skip_verify = true"):
            (certs / server.host / "hosts.toml").write_text(f'server = "https://{server.host}"\n{table}\n')
            assert (await store.pull(name, None)).id == pushed.id
            await store.remove(name)


async def test_basic_authentication(
    registry: Any, store: ImageStore, tools: Any, pushed: Any, tmp_path: Path
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    basic = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    with tools.serve(tmp_path / "basic", registry.storage, auth=basic) as server:
        name = f"{server.host}/private/app:v1"
        wrong = Auth(username="alice", password="guess-me-not")
        other_host = Auth(username="alice", password="s3cret", server_address="registry.example")
        for auth in (None, wrong, other_host):
            with pytest.raises(Unauthorized, match="authorization failed") as caught:
                await store.pull(name, auth)
            assert "guess" not in str(caught.value)
        for auth in (ALICE, Auth(auth=base64.b64encode(b"alice:s3cret").decode())):
            assert (await store.pull(name, auth)).id == pushed.id
            await store.remove(name)


async def test_token_authentication(
    registry: Any, store: ImageStore, tools: Any, pushed: Any, identity: Path, tmp_path: Path
) -> None:
    tokens = TokenServer(identity)
    with (
        running(tokens),
        tools.serve(tmp_path / "token", registry.storage, auth=tokens.settings()) as server,
    ):
        name = f"{server.host}/private/app:v1"
        for wrong in (None, Auth(username="alice", password="no")):
            with pytest.raises(Unauthorized, match="authorization failed"):
                await store.pull(name, wrong)
        tokens.given.clear()
        assert (await store.pull(name, ALICE)).id == pushed.id
        assert len(tokens.given) == 1  # one token serves manifest, configuration and layer
        query, _ = tokens.given[0]
        assert query["scope"] == ["repository:private/app:pull"]
        assert query["service"] == ["our registry"]


async def test_redirects_carry_no_credentials_to_another_host(
    store: ImageStore, tools: Any, fakes: Any, certs: Path
) -> None:
    registry, storage = fakes(), fakes()
    built = tools.image(tools.tar(("f", b"1" * 1000)))
    storage.offer(built)

    def guarded(request: Request) -> Answer:
        if "authorization" not in request.headers:
            return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
        if "/manifests/" in request.path:
            return Answer(headers={"Content-Type": built.media_type}, body=built.manifest)
        return Answer(307, {"Location": f"http://{storage.host}{request.path}?signed=1"})

    registry.answers[""] = guarded
    configure(certs, registry.host, '[header]\nx-secret = "mine"\n')
    image = await store.pull(f"{registry.host}/app:v1", ALICE)
    assert image.id == built.id
    assert {"authorization", "x-secret"} <= set(registry.requests[-1][2])
    assert len(storage.requests) == 2
    for _, _, headers in storage.requests:
        assert not {"authorization", "x-secret", "cookie"} & set(headers)


async def test_mirrors_are_asked_in_order_and_the_registry_last(
    store: ImageStore, tools: Any, fakes: Any, certs: Path
) -> None:
    empty, full, origin = fakes(), fakes(), fakes()
    built = tools.image(tools.tar(("f", b"1" * 1000)))
    full.offer(built)
    origin.offer(tools.image(tools.tar(("f", b"other"))))
    dead = f"http://127.0.0.1:{tools.free_port()}"
    tables = "".join(f'[host."{url}"]\n' for url in (dead, f"http://{empty.host}", f"http://{full.host}"))
    configure(certs, origin.host, tables)
    assert (await store.pull(f"{origin.host}/app:v1", None)).id == built.id
    assert empty.requests
    assert origin.requests == []
    assert all(f"ns={origin.host}" in path for _, path, _ in full.requests)


async def test_a_broken_transfer_goes_on_where_it_broke(store: ImageStore, tools: Any, fakes: Any) -> None:
    registry = fakes()
    built = tools.image(tools.tar(("f", os.urandom(2 << 20))))
    registry.offer(built)
    data = built.blobs[built.layers[0]]
    ranges: list[str | None] = []

    def breaking(request: Request) -> Answer:
        asked = request.headers.get("range")
        ranges.append(asked)
        if asked is None:
            return Answer(body=data, cut=len(data) // 2)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        told = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Answer(206, {"Content-Range": told}, data[start:])

    registry.answers[f"/blobs/{built.layers[0]}"] = breaking
    assert (await store.pull(f"{registry.host}/app:v1", None)).id == built.id
    assert ranges == [None, f"bytes={len(data) // 2}-"]


async def test_what_came_before_a_registry_failed_waits_for_the_next_try(
    open_store: Any, tools: Any, fakes: Any, tmp_path: Path
) -> None:
    registry = fakes()
    built = tools.image(*(tools.tar((f"f{number}", os.urandom(1000))) for number in range(2)))
    registry.offer(built)
    good = registry.answers[f"/blobs/{built.layers[1]}"]

    def fail(_: Request) -> Answer:
        until = time.monotonic() + 10
        while not os.listdir(tmp_path / "images/layers") and time.monotonic() < until:
            time.sleep(0.01)  # until the other layer is in the store
        return Answer(502)

    registry.answers[f"/blobs/{built.layers[1]}"] = fail
    async with open_store(tmp_path / "images") as store:
        for _ in range(2):
            with pytest.raises(RegistryUnavailable, match="HTTP 502"):
                await store.pull(f"{registry.host}/app:v1", None)
        registry.answers[f"/blobs/{built.layers[1]}"] = good
        image = await store.pull(f"{registry.host}/app:v1", None)
        assert sum(path.endswith(built.layers[0]) for _, path, _ in registry.requests) == 1
        await store.remove(image.id)
        assert tools.leftovers(tmp_path / "images") == []


async def test_a_registry_that_fails_is_unavailable(store: ImageStore, fakes: Any) -> None:
    registry = fakes()
    registry.answers[""] = Answer(503)
    with pytest.raises(RegistryUnavailable, match="HTTP 503"):
        await store.pull(f"{registry.host}/app:v1", None)


async def test_a_registry_that_says_nothing_is_unavailable(
    open_store: Any, fakes: Any, tmp_path: Path
) -> None:
    registry, leave = fakes(), threading.Event()

    def silent(_: Request) -> Answer:
        leave.wait(20)
        return Answer(404)

    registry.answers[""] = silent
    async with open_store(tmp_path / "images", stall_timeout_s=0.3) as store:
        with pytest.raises(RegistryUnavailable, match="no byte within"):
            await store.pull(f"{registry.host}/app:v1", None)
    leave.set()


async def test_a_redirect_without_end_is_refused(store: ImageStore, fakes: Any) -> None:
    registry = fakes()
    registry.answers[""] = Answer(302, {"Location": "/again"})
    with pytest.raises(FailedPrecondition, match="redirects more than"):
        await store.pull(f"{registry.host}/app:v1", None)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGE = {
    "flipped layer": (flipped, "unexpected digest"),
    "short layer": (lambda data: data[: len(data) // 2], "ends after"),
    "long layer": (lambda data: data + b"more", "longer than"),
    "empty layer": (lambda data: b"", "ends after 0"),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE.keys())
async def test_content_that_is_not_what_its_digest_says_is_refused(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path, damage: Any, why: str
) -> None:
    good, bad = tools.tar(("f", os.urandom(10_000))), tools.tar(("g", os.urandom(50_000)))
    built = tools.image(good, bad)
    name = registry.push("damaged/app", "v1", built)
    file = registry.blob_file(built.layers[1])
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(FailedPrecondition, match=why):
        await store.pull(name, None)
    assert tools.leftovers(tmp_path / "images") == []


async def test_documents_that_are_not_what_they_say_are_refused(
    store: ImageStore, tools: Any, fakes: Any, tmp_path: Path
) -> None:
    registry = fakes()
    built = tools.image(tools.tar(("f", b"1")))
    registry.offer(built)
    lie = {"Content-Type": built.media_type, "Docker-Content-Digest": tools.digest(b"other")}
    registry.answers["/manifests/lie"] = Answer(headers=lie, body=built.manifest)
    registry.answers[f"/manifests/{tools.digest(b'wanted')}"] = Answer(body=built.manifest)
    for reference in (":lie", f"@{tools.digest(b'wanted')}"):
        with pytest.raises(FailedPrecondition, match="unexpected digest"):
            await store.pull(f"{registry.host}/app{reference}", None)
    registry.answers[f"/blobs/{built.id}"] = Answer(body=flipped(built.blobs[built.id]))
    with pytest.raises(FailedPrecondition, match="unexpected digest"):
        await store.pull(f"{registry.host}/app:v1", None)
    assert tools.leftovers(tmp_path / "images") == []


async def test_a_wrong_diff_id_is_refused(store: ImageStore, tools: Any, fakes: Any, tmp_path: Path) -> None:
    registry = fakes()
    built, other = (tools.image(tools.tar(("f", text)), packing="tar") for text in (b"1", b"2"))
    document = json.loads(built.manifest)
    document["layers"] = json.loads(other.manifest)["layers"]
    built.blobs |= other.blobs
    built.manifest = json.dumps(document).encode()
    registry.offer(built)
    with pytest.raises(FailedPrecondition, match="unexpected diff id"):
        await store.pull(f"{registry.host}/app:v1", None)
    assert tools.leftovers(tmp_path / "images") == []


async def test_a_blob_that_the_registry_lost_is_not_found(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    built = tools.image(tools.tar(("f", os.urandom(1000))))
    name = registry.push("lost/app", "v1", built)
    registry.blob_file(built.layers[0]).unlink()
    with pytest.raises(NotFound):
        await store.pull(name, None)
    assert tools.leftovers(tmp_path / "images") == []
