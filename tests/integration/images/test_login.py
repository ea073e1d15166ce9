"""Being let in by a real registry: every form of credentials, tokens that end, certificates of clients."""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, Gateway, Request, TokenServer, openssl, running

from shim.errors import InvalidArgument
from shim.images.auth import Unauthorized
from shim.images.store import ImageStore
from shim.model.image import Auth

pytestmark = [pytest.mark.root, pytest.mark.registry]

# "s3cret" of "alice", by bcrypt: the only kind that docker-registry reads.
HTPASSWD = "alice:$2b$04$qqc1v8D1qrZXukO.VS8S6O.o.YxB5sGY/tb56RkAV39zqq8fQFG9G\n"
ALICE = Auth(username="alice", password="s3cret")
ENTRY = {"auth": base64.b64encode(b"alice:s3cret").decode()}


@pytest.fixture(scope="module")
def built(registry: Any, tools: Any) -> Any:
    made = tools.image(tools.tar(("file", os.urandom(3000))), tools.tar(("other", os.urandom(3000))))
    registry.push("private/login", "v1", made)
    return made


@pytest.fixture(scope="module")
def tokens(identity: Path) -> Iterator[TokenServer]:
    site = TokenServer(identity)
    with running(site):
        yield site


@pytest.fixture(scope="module")
def by_token(
    registry: Any, tools: Any, built: Any, tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("by_token")
    with tools.serve(folder, registry.storage, auth=tokens.settings()) as server:
        yield server


@pytest.fixture(scope="module")
def by_password(
    registry: Any, tools: Any, built: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("by_password")
    (folder / "htpasswd").write_text(HTPASSWD)
    basic = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    with tools.serve(folder, registry.storage, auth=basic) as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(tokens: TokenServer) -> None:
    tokens.given.clear()


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    for secret in ("s3cret", ENTRY["auth"], TokenServer.identity_token):
        assert secret not in caplog.text


def docker_config(folder: Path, **document: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(document))
    return str(path)


async def test_an_identity_token_is_exchanged_for_a_token(
    store: ImageStore, by_token: Any, built: Any, tokens: TokenServer
) -> None:
    name = f"{by_token.host}/private/login:v1"
    with pytest.raises(Unauthorized, match=r"no token for repository:private/login:pull .*who are you"):
        await store.pull(name, Auth(identity_token="guess"))
    tokens.given.clear()
    assert (await store.pull(name, Auth(identity_token=TokenServer.identity_token))).id == built.id
    ((form, authorization),) = tokens.given
    assert authorization == ""
    assert form["grant_type"] == ["refresh_token"]
    assert form["scope"] == ["repository:private/login:pull"]


async def test_a_token_server_that_is_busy_is_asked_again(
    store: ImageStore, by_token: Any, built: Any, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = [Answer(503), Answer(429, {"Retry-After": "0"})]
    answer = tokens.answer
    monkeypatch.setattr(tokens, "answer", lambda request: busy.pop() if busy else answer(request))
    assert (await store.pull(f"{by_token.host}/private/login:v1", ALICE)).id == built.id
    assert (busy, len(tokens.given)) == ([], 1)


async def test_credentials_that_are_malformed_are_the_caller_s_mistake(
    store: ImageStore, by_password: Any, built: Any
) -> None:
    with pytest.raises(InvalidArgument, match="the auth of the request is not base64") as caught:
        await store.pull(f"{by_password.host}/private/login:v1", Auth(auth="s3cret!"))
    assert "s3cret" not in str(caught.value)


async def test_a_registry_token_is_shown_as_it_is(
    store: ImageStore, by_token: Any, built: Any, tokens: TokenServer
) -> None:
    access = [{"type": "repository", "name": "private/login", "actions": ["pull"]}]
    token = tokens.sign("our registry", access)
    name = f"{by_token.host}/private/login:v1"
    assert (await store.pull(name, Auth(registry_token=token))).id == built.id
    assert tokens.given == []
    await store.remove(name)
    with pytest.raises(Unauthorized, match="authorization failed: HTTP 401"):
        await store.pull(name, Auth(registry_token=f"{token}x"))


async def test_a_token_that_ends_in_the_middle_is_replaced_once_for_all_blobs(
    open_store: Any, by_token: Any, tools: Any, registry: Any, tokens: TokenServer, tmp_path: Path
) -> None:
    made = tools.image(*(tools.tar((f"f{number}", os.urandom(1000))) for number in range(3)))
    registry.push("private/many", "v1", made)
    gateway = Gateway(by_token.host)
    ended: set[str] = set()

    def revoke(request: Request, answer: Answer) -> Answer:
        shown = request.headers.get("authorization", "")
        if answer.code == 200 and "/manifests/" in request.path:
            ended.add(shown)
        elif shown in ended:
            challenge = f'Bearer realm="{tokens.url}",service="our registry",error="invalid_token"'
            return Answer(401, {"WWW-Authenticate": challenge})
        return answer

    gateway.spoil = revoke
    with running(gateway):
        async with open_store(tmp_path / "images") as store:
            assert (await store.pull(f"{gateway.host}/private/many:v1", ALICE)).id == made.id
            assert store.counters.hosts[gateway.host].tokens == 2
    assert len(tokens.given) == 2
    # The configuration was refused and asked for again; the layers were asked for with the new token.
    assert len(gateway.asked("/blobs/")) == 1 + len(made.blobs)


async def test_a_token_whose_life_is_over_is_not_shown_again(
    store: ImageStore, by_token: Any, built: Any, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shim.images.auth._EARLY_S", 1000.0)  # so long before its end a token is not used
    with pytest.raises(Unauthorized):
        await store.pull(f"{by_token.host}/private/login:v1", ALICE)
    assert len(tokens.given) == 1


@pytest.mark.parametrize("form", ["auths", "helper", "store"])
async def test_a_node_has_credentials_of_its_own(
    open_store: Any, by_password: Any, built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\necho \'{"Username": "alice", "Secret": "s3cret"}\'\n')
    helper.chmod(0o755)
    documents = {
        "auths": {"auths": {f"http://{by_password.host}/v2/": ENTRY}},
        "helper": {"credHelpers": {by_password.host: "test"}},
        "store": {"credsStore": "test"},
    }
    path = docker_config(tmp_path, **documents[form])
    name = f"{by_password.host}/private/login:v1"
    async with open_store(tmp_path / "images", docker_config=path) as store:
        assert (await store.pull(name, None)).id == built.id
        with pytest.raises(Unauthorized, match="authorization failed: HTTP 401"):
            await store.pull(name.replace("v1", "v2"), Auth(username="alice", password="wrong"))
    async with open_store(tmp_path / "other") as store:
        with pytest.raises(Unauthorized, match=r"wants credentials \(basic\), none fit"):
            await store.pull(name, None)


async def test_a_helper_may_give_an_identity_token(
    open_store: Any, by_token: Any, built: Any, tokens: TokenServer, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    helper = tmp_path / "docker-credential-test"
    answer = json.dumps({"Username": "<token>", "Secret": TokenServer.identity_token})
    helper.write_text(f"#!/bin/sh\necho '{answer}'\n")
    helper.chmod(0o755)
    path = docker_config(tmp_path, credsStore="test")
    async with open_store(tmp_path / "images", docker_config=path) as store:
        assert (await store.pull(f"{by_token.host}/private/login:v1", None)).id == built.id


async def test_a_helper_that_fails_does_not_keep_another_host_from_helping(
    open_store: Any, by_password: Any, registry: Any, built: Any, tmp_path: Path, certs: Path
) -> None:
    path = docker_config(tmp_path, credsStore="not-installed")
    directory = certs / registry.host
    directory.mkdir()
    (directory / "hosts.toml").write_text(f'[host."http://{by_password.host}"]\n')
    async with open_store(tmp_path / "images", docker_config=path) as store:
        assert (await store.pull(f"{registry.host}/private/login:v1", None)).id == built.id
        with pytest.raises(Exception, match=r"docker-credential-not-installed .*cannot be started") as caught:
            await store.pull(f"{by_password.host}/private/login:v1", None)
        assert by_password.host in str(caught.value)


@pytest.fixture(scope="module")
def client_identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("client")
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=client"),
        *("-keyout", str(path / "client.key"), "-out", str(path / "client.cert")),
    )
    both = (path / "client.cert").read_text() + (path / "client.key").read_text()
    (path / "both.pem").write_text(both)
    return path


async def test_a_client_is_known_by_its_certificate(
    registry: Any,
    store: ImageStore,
    tools: Any,
    built: Any,
    identity: Path,
    client_identity: Path,
    certs: Path,
    tmp_path: Path,
) -> None:
    tls = {
        "certificate": str(identity / "cert.pem"),
        "key": str(identity / "key.pem"),
        "clientcas": [str(client_identity / "client.cert")],
    }
    with tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}) as server:
        name = f"{server.host}/private/login:v1"
        directory = certs / server.host
        directory.mkdir()
        for part in ("client.cert", "client.key", "both.pem"):
            (directory / part).write_bytes((client_identity / part).read_bytes())
        start = f'server = "https://{server.host}"\nca = "{identity}/cert.pem"\n'
        file = directory / "hosts.toml"
        file.write_text(start)
        with pytest.raises(Exception, match=f"{server.host}: .*does it want a client certificate"):
            await store.pull(name, None)
        for client in ('[["client.cert", "client.key"]]', '"both.pem"', '["both.pem"]'):
            file.write_text(f"{start}client = {client}\n")
            assert (await store.pull(name, None)).id == built.id
            await store.remove(name)
        file.write_text(f'{start}client = "none.pem"\n')
        with pytest.raises(Exception, match=f"cannot use {directory}/none.pem, .*: No such file"):
            await store.pull(name, None)


async def test_docker_s_way_to_lay_out_certificates(
    registry: Any,
    store: ImageStore,
    tools: Any,
    built: Any,
    identity: Path,
    client_identity: Path,
    certs: Path,
    tmp_path: Path,
) -> None:
    tls = {
        "certificate": str(identity / "cert.pem"),
        "key": str(identity / "key.pem"),
        "clientcas": [str(client_identity / "client.cert")],
    }
    with tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}) as server:
        directory = certs / server.host.replace(":", "_")
        directory = directory.with_name(directory.name + "_")
        directory.mkdir()
        for name in ("client.cert", "client.key"):
            (directory / name).write_bytes((client_identity / name).read_bytes())
        (directory / "ca.crt").write_bytes((identity / "cert.pem").read_bytes())
        # Nothing says that this port of loopback speaks TLS: it is found out.
        assert (await store.pull(f"{server.host}/private/login:v1", None)).id == built.id


async def test_new_certificates_count_at_once(
    registry: Any, store: ImageStore, tools: Any, built: Any, identity: Path, certs: Path, tmp_path: Path
) -> None:
    tls = {"certificate": str(identity / "cert.pem"), "key": str(identity / "key.pem")}
    with tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}) as server:
        directory = certs / server.host
        directory.mkdir()
        (directory / "hosts.toml").write_text(f'server = "https://{server.host}"\nca = "ca.pem"\n')
        other = openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout", "-")
        (directory / "ca.pem").write_bytes(other)
        name = f"{server.host}/private/login:v1"
        with pytest.raises(Exception, match="certificate verify failed"):
            await store.pull(name, None)
        (directory / "new").write_bytes((identity / "cert.pem").read_bytes())
        os.replace(directory / "new", directory / "ca.pem")
        assert (await store.pull(name, None)).id == built.id


async def test_loopback_may_speak_tls_without_a_word(
    registry: Any, store: ImageStore, tools: Any, built: Any, identity: Path, tmp_path: Path
) -> None:
    tls = {"certificate": str(identity / "cert.pem"), "key": str(identity / "key.pem")}
    with tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}) as server:
        assert (await store.pull(f"{server.host}/private/login:v1", None)).id == built.id


async def test_a_token_server_of_https_is_verified_by_the_registry_s_certificates(
    registry: Any, store: ImageStore, tools: Any, built: Any, identity: Path, certs: Path, tmp_path: Path
) -> None:
    tokens = TokenServer(identity)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    tokens.wrap = context
    tokens.url = f"https://{tokens.host}/token?account=kept"
    tls = {"certificate": str(identity / "cert.pem"), "key": str(identity / "key.pem")}
    with (
        running(tokens),
        tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}, auth=tokens.settings()) as server,
    ):
        directory = certs / server.host
        directory.mkdir()
        (directory / "hosts.toml").write_text(
            f'server = "https://{server.host}"\nca = "{identity}/cert.pem"\n[header]\nx-secret = "mine"\n'
        )
        assert (await store.pull(f"{server.host}/private/login:v1", ALICE)).id == built.id
        ((_, target, headers),) = tokens.requests
        assert "account=kept" in target
        assert "x-secret" not in headers  # it is for the registry


async def test_a_secret_is_not_sent_to_a_token_server_without_tls(
    registry: Any,
    store: ImageStore,
    tools: Any,
    tokens: TokenServer,
    identity: Path,
    certs: Path,
    tmp_path: Path,
) -> None:
    tls = {"certificate": str(identity / "cert.pem"), "key": str(identity / "key.pem")}
    settings = tokens.settings()
    with tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}, auth=settings) as server:
        directory = certs / server.host
        directory.mkdir()
        (directory / "hosts.toml").write_text(
            f'server = "https://{server.host}"\nca = "{identity}/cert.pem"\n'
        )
        with pytest.raises(Unauthorized, match="without encryption"):
            await store.pull(f"{server.host}/private/login:v1", ALICE)
        assert tokens.given == []
