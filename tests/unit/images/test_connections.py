from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shim.errors import FailedPrecondition
from shim.images.connections import Connections
from shim.images.hosts import Tls
from shim.images.settings import Settings
from shim.threads import Pool

URL = "https://registry.example/v2"


@pytest.fixture
def threads() -> Iterator[Pool]:
    pool = Pool("test", 1)
    yield pool
    pool.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_host_that_failed_is_down_for_a_while_and_longer_each_time(threads: Pool) -> None:
    clock = Clock()
    connections = Connections(Settings(), threads, clock, {})
    assert not connections.is_down(URL)
    waits = []
    for _ in range(6):
        connections.mark_down(URL, "why")
        connections.mark_down(f"{URL}/other", "not counted: it was asked at the same time")
        assert connections.why_down(URL) == "why"
        assert not connections.is_down("http://registry.example/v2")
        begin = clock.now
        while connections.is_down(URL):
            clock.now += 1.0
        waits.append(clock.now - begin)
    assert waits == [15.0, 30.0, 60.0, 120.0, 120.0, 120.0]
    assert connections.why_down(URL) == ""
    connections.mark_down(URL, "why")
    connections.mark_up(URL)
    assert not connections.is_down(URL)


def test_hosts_that_are_down_are_not_kept_for_ever(threads: Pool) -> None:
    connections = Connections(Settings(), threads, Clock(), {})
    for number in range(2000):
        connections.mark_down(f"https://host{number}/v2", "why")
    known = [number for number in range(2000) if connections.is_down(f"https://host{number}/v2")]
    assert known == list(range(1000, 2000))


async def test_clients_are_shared_but_not_over_changed_certificates(tmp_path: Path, threads: Pool) -> None:
    connections = Connections(Settings(), threads, environ={})
    first = await connections.client(URL, Tls())
    assert await connections.client("https://else.example", Tls()) is first
    assert await connections.client(URL, Tls(skip_verify=True)) is not first
    plain = await connections.client("http://registry.example", Tls(ca=("/none",)))
    assert await connections.client("http://else.example", Tls()) is plain
    ca = tmp_path / "ca.pem"
    for text in ("", "nonsense"):
        ca.write_text(text)
        with pytest.raises(FailedPrecondition, match=f"cannot use {ca}"):
            await connections.client(URL, Tls(ca=(str(ca),)))
    with pytest.raises(FailedPrecondition, match="No such file"):
        await connections.client(URL, Tls(client=((str(tmp_path / "none"), ""),)))
    await connections.close()


async def test_a_proxy_of_the_environment_has_a_client_of_its_own(threads: Pool) -> None:
    environ = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "direct.example"}
    connections = Connections(Settings(), threads, environ=environ)
    through = await connections.client(URL, Tls())
    assert await connections.client("https://direct.example", Tls()) is not through
    environ["HTTPS_PROXY"] = "socks5://proxy:1080"
    with pytest.raises(FailedPrecondition, match="socksio"):
        await connections.client(URL, Tls())
    await connections.close()


async def test_no_cookie_is_kept(threads: Pool) -> None:
    connections = Connections(Settings(), threads, environ={})
    client = await connections.client(URL, Tls())
    answer = httpx.Response(
        200, headers={"Set-Cookie": "session=1; Path=/"}, request=httpx.Request("GET", URL)
    )
    client.cookies.extract_cookies(answer)
    assert list(client.cookies.jar) == []
    await connections.close()


async def test_offline_no_client_is_given(threads: Pool) -> None:
    connections = Connections(Settings(offline=True), threads, environ={})
    with pytest.raises(FailedPrecondition, match=r"registry\.offline"):
        await connections.client(URL, Tls())


def test_how_long_a_connection_may_take_can_be_said_for_one_host(threads: Pool) -> None:
    connections = Connections(Settings(connect_timeout_s=10, stall_timeout_s=60), threads, environ={})
    assert connections.timeout() == httpx.Timeout(60, connect=10, pool=None)
    assert connections.timeout(0.5).connect == 0.5
