from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.images.connections import Connections
from shim.images.counters import Counters
from shim.images.credentials import Keychain
from shim.images.exchange import Shared
from shim.images.explain import Explanation, explain
from shim.images.settings import Settings
from shim.model.image import Auth
from shim.threads import Pool


@pytest.fixture
def threads() -> Iterator[Pool]:
    pool = Pool("test", 1)
    yield pool
    pool.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "config.json"
    config.write_text('{"auths": {"mirror.example": {"username": "me", "password": "s3cret"}}}')
    return Settings(config_paths=(str(tmp_path / "certs.d"),), docker_config=str(config))


@pytest.fixture
def shared(settings: Settings, threads: Pool) -> Iterator[Shared]:
    environ = {"HTTPS_PROXY": "http://u:s3cret@proxy:3128", "NO_PROXY": "mirror.example"}
    keychain = Keychain(settings.docker_config, threads)
    yield Shared(Connections(settings, threads, environ=environ), keychain, Counters())
    keychain.close()


def configure(tmp_path: Path, text: str) -> None:
    directory = tmp_path / "certs.d" / "docker.io"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)


async def test_hosts_come_in_order_with_their_reasons(
    tmp_path: Path, settings: Settings, shared: Shared, threads: Pool
) -> None:
    configure(
        tmp_path,
        """
        [host."https://mirror.example"]
        capabilities = ["pull"]
        ca = "ca.pem"
        client = "me.pem"
        [host."http://10.0.0.1:5000"]
        skip-verify = true
        """,
    )
    shared.connections.mark_down("http://10.0.0.1:5000/v2", "10.0.0.1:5000: no route")
    found = await explain(settings, shared, threads, "busybox", None)
    assert found.reference == "docker.io/library/busybox:latest"
    assert found.source == str(tmp_path / "certs.d/docker.io/hosts.toml")
    assert "skip-verify" in found.warnings[0]
    mirror, plain, own = found.hosts
    assert mirror.url == "https://mirror.example/v2"
    assert mirror.capabilities == ("pull",)
    assert mirror.reason.startswith("mirror 1 for docker.io")
    assert "user 'me'" in mirror.credentials
    assert "ca.pem" in mirror.tls
    assert "me.pem" in mirror.tls
    assert mirror.proxy == ""
    assert (plain.tls, plain.state) == ("none", "down, asked last: 10.0.0.1:5000: no route")
    assert (own.url, own.reason) == (
        "https://registry-1.docker.io/v2",
        "the registry itself, after its mirrors",
    )
    assert own.proxy == "http://proxy:3128"
    assert own.credentials == "none but those of a request"
    assert "s3cret" not in repr(found)


async def test_without_a_file_it_tells_where_one_was_looked_for(
    tmp_path: Path, settings: Settings, shared: Shared, threads: Pool
) -> None:
    found = await explain(
        settings, shared, threads, "127.0.0.1:5000/app", Auth(username="a", password="s3cret")
    )
    (host,) = found.hosts
    assert found.source == ""
    assert found.tried[-1] == str(tmp_path / "certs.d/_default")
    assert host.reason == "the registry itself"
    assert host.tls == "none, unless it turns out to speak TLS"
    assert host.credentials == "of the request (user 'a')"
    assert "s3cret" not in repr(found)


async def test_a_server_of_the_file_takes_the_registry_s_place(
    tmp_path: Path, settings: Settings, shared: Shared, threads: Pool
) -> None:
    configure(tmp_path, 'server = "https://other.example"\nskip_verify = true\n')
    found: Explanation = await explain(settings, shared, threads, "busybox", None)
    assert found.hosts[0].reason == '"server" of the file, in the place of docker.io'
    assert found.hosts[0].tls == "the host is not verified"
    with pytest.raises(InvalidArgument):
        await explain(settings, shared, threads, "UPPER", None)
