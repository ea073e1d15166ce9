"""A real registry behind a gateway that delays, cuts, throttles and lies: what can be recovered from is, the
rest is one sentence with host and blob.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, Gateway, Request, running

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, RegistryUnavailable
from shim.images.store import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.registry]

Spoil = Callable[[Request, Answer], Answer]
change = dataclasses.replace
SIZES = (2_000_000, 1000)


@pytest.fixture
def gateway(registry: Any) -> Iterator[Gateway]:
    site = Gateway(registry.host)
    with running(site):
        yield site


@pytest.fixture(scope="module")
def pushed(registry: Any, tools: Any) -> Any:
    """An image of a layer of 2 MB and a small one."""
    layers = (tools.tar((f"file{number}", os.urandom(size))) for number, size in enumerate(SIZES))
    built = tools.image(*layers)
    registry.push("behind/app", "v1", built)
    return built


@pytest.fixture
def name(gateway: Gateway, pushed: Any) -> str:
    return f"{gateway.host}/behind/app:v1"


@pytest.fixture
def mirrored(gateway: Gateway, registry: Any, certs: Path) -> str:
    """The image by its registry's name, whose first mirror is the gateway."""
    directory = certs / registry.host
    directory.mkdir()
    (directory / "hosts.toml").write_text(f'[host."http://{gateway.host}"]\n')
    return f"{registry.host}/behind/app:v1"


def only(part: str, spoil: Spoil) -> Spoil:
    """Spoil only GET requests whose path has ``part``."""
    return lambda request, answer: (
        spoil(request, answer) if request.method == "GET" and part in request.path else answer
    )


def first(times: int, spoil: Spoil) -> Spoil:
    return lambda request, answer: spoil(request, answer) if request.nth < times else answer


async def check_whole(store: ImageStore, pulled: str, built: Any) -> None:
    image = await store.pull(pulled, None)
    assert image.id == built.id
    for number, size in enumerate(SIZES):
        data = store.read_file(image, f"/file{number}")
        assert data is not None
        assert len(data) == size


RECOVERABLE: dict[str, Spoil] = {
    "a connection cut in the middle": only("/blobs/", first(1, lambda _, a: change(a, cut=len(a.body) // 2))),
    "a connection cut before the first byte": only("/", first(1, lambda _, a: change(a, cut=0))),
    "every connection cut after 300 kB": only(
        "/blobs/", lambda _, a: change(a, cut=300_000) if len(a.body) > 300_000 else a
    ),
    "a cut that looks like the end": only(
        "/blobs/", first(1, lambda _, a: change(a, headers={"content-length": None}, cut=len(a.body) // 2))
    ),
    "a manifest cut": only("/manifests/", first(1, lambda _, a: change(a, cut=10))),
    "500 at first": first(2, lambda _, a: Answer(500)),
    "503 with a wish": first(1, lambda _, a: Answer(503, {"Retry-After": "0"})),
    "429 at first": first(2, lambda _, a: Answer(429, body=b'{"errors": [{"code": "TOOMANYREQUESTS"}]}')),
    "429 with seconds": only("/manifests/", first(1, lambda _, a: Answer(429, {"Retry-After": "1"}))),
    "no length": only("/", lambda _, a: change(a, headers={**a.headers, "content-length": None})),
    "no digest in headers": lambda _, a: change(a, headers={**a.headers, "docker-content-digest": None}),
    "no type": only("/manifests/", lambda _, a: change(a, headers={**a.headers, "content-type": None})),
    "a type with a parameter": only(
        "/manifests/",
        lambda _, a: change(a, headers={**a.headers, "content-type": f"{a.headers['content-type']}; x=1"}),
    ),
    "a slow trickle": only("/blobs/", lambda _, a: change(a, piece=400_000, pause_s=0.4)),
}


@pytest.mark.parametrize(
    ("case", "ranges"),
    [*((case, True) for case in RECOVERABLE), ("a connection cut in the middle", False)],
)
async def test_what_passes_is_recovered_from(
    gateway: Gateway, open_store: Any, tmp_path: Path, pushed: Any, name: str, case: str, ranges: bool
) -> None:
    gateway.ranges = ranges
    gateway.spoil = RECOVERABLE[case]
    # The trickle takes two seconds in all: only a stall times out.
    limits = {"stall_timeout_s": 1.5} if "trickle" in case else {}
    async with open_store(tmp_path / "images", **limits) as store:
        await check_whole(store, name, pushed)


async def test_what_has_come_is_not_fetched_again(
    gateway: Gateway, store: ImageStore, pushed: Any, name: str
) -> None:
    gateway.spoil = only("/blobs/", lambda _, a: change(a, cut=300_000) if len(a.body) > 300_000 else a)
    await check_whole(store, name, pushed)
    big = pushed.layers[0]
    size = len(pushed.blobs[big])
    ranges = [headers.get("range") for headers in gateway.asked(big)]
    assert ranges == [None, *(f"bytes={start}-" for start in range(300_000, size, 300_000))]
    counted = store.counters.hosts[gateway.host]
    assert counted.resumed == counted.retries == len(ranges) - 1
    assert counted.failures == {"broken": len(ranges) - 1}
    everything = len(pushed.manifest) + sum(map(len, pushed.blobs.values()))
    assert counted.fetched_bytes == store.counters.fetched_bytes == everything


async def test_a_stall_is_waited_out_once_and_the_rest_asked_for(
    gateway: Gateway, open_store: Any, tmp_path: Path, pushed: Any, name: str
) -> None:
    release = threading.Event()
    gateway.spoil = only(pushed.layers[0], first(1, lambda _, a: change(a, hang=500_000, release=release)))
    async with open_store(tmp_path / "images", stall_timeout_s=2.0) as store:
        await check_whole(store, name, pushed)
        assert store.counters.hosts[gateway.host].failures == {"silent": 1}
    release.set()
    assert [headers.get("range") for headers in gateway.asked(pushed.layers[0])] == [None, "bytes=500000-"]


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


LIES: dict[str, tuple[Spoil, str]] = {
    "wrong bytes in a layer": (lambda _, a: change(a, body=flipped(a.body)), "unexpected digest"),
    "nonsense for a layer": (lambda _, a: change(a, body=bytes(len(a.body))), "unexpected digest"),
    "a short blob": (
        lambda _, a: change(a, body=a.body[:-5], headers={"content-length": str(len(a.body) - 5)}),
        r"ends after \d+ of \d+ bytes",
    ),
    "a long blob": (
        lambda _, a: change(a, body=a.body + b"more", headers={"content-length": str(len(a.body) + 4)}),
        r"longer than the \d+ bytes",
    ),
    "a page in place of a blob": (
        lambda _, a: Answer(headers={"Content-Type": "text/html"}, body=b"<html>log in</html>"),
        "ends after|longer than",
    ),
}


@pytest.mark.parametrize(("spoil", "why"), LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("which", ["layer", "configuration"])
async def test_a_mirror_that_lies_about_a_blob_is_left_for_the_next_host(
    gateway: Gateway,
    store: ImageStore,
    pushed: Any,
    mirrored: str,
    name: str,
    spoil: Spoil,
    why: str,
    which: str,
    tools: Any,
    tmp_path: Path,
) -> None:
    blob = pushed.layers[0] if which == "layer" else pushed.id
    gateway.spoil = only(blob, spoil)
    with pytest.raises(FailedPrecondition, match=why) as caught:
        await store.pull(name, None)
    assert gateway.host in str(caught.value)
    assert blob in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tools.leftovers(tmp_path / "images") == []
    await check_whole(store, mirrored, pushed)
    assert store.counters.hosts[gateway.host].failures["lied"] >= 1
    assert store.counters.hosts[mirrored.partition("/")[0]].failures == {}


MANIFEST_LIES: dict[str, tuple[Spoil, str]] = {
    "another digest in the header": (
        lambda _, a: change(a, headers={**a.headers, "docker-content-digest": "sha256:" + "0" * 64}),
        "unexpected digest",
    ),
    "a digest that is none": (
        lambda _, a: change(a, headers={**a.headers, "docker-content-digest": "sha256:../../etc"}),
        "is no sha256 or sha512 digest",
    ),
    "wrong bytes": (lambda _, a: change(a, body=a.body + b" "), "unexpected digest"),
    "another type": (
        lambda _, a: change(
            a, headers={**a.headers, "content-type": "application/vnd.oci.image.index.v1+json"}
        ),
        "is declared as",
    ),
    "a page": (
        lambda _, a: Answer(headers={"Content-Type": "text/html"}, body=b"<html>log in</html>"),
        "malformed JSON",
    ),
    "a key given twice": (
        lambda _, a: Answer(headers={"Content-Type": "x"}, body=b'{"layers": [], "layers": []}'),
        "a key comes twice",
    ),
    "an index and a manifest at once": (
        lambda _, a: Answer(body=b'{"layers": [], "manifests": []}'),
        "an index and a manifest at once",
    ),
    "a list": (lambda _, a: Answer(body=b"[]"), "a JSON object is expected"),
    "deep nesting": (lambda _, a: Answer(body=b"[" * 1_000_000), "malformed JSON"),
    "too much": (lambda _, a: Answer(body=b" " * (5 << 20)), "more than 4194304 bytes"),
    "too much without end": (
        lambda _, a: Answer(headers={"content-length": None}, body=bytes(1 << 20), endless=True),
        "more than 4194304 bytes",
    ),
}


@pytest.mark.parametrize(("spoil", "why"), MANIFEST_LIES.values(), ids=MANIFEST_LIES.keys())
async def test_a_mirror_that_lies_about_a_manifest_is_left_for_the_next_host(
    gateway: Gateway, registry: Any, store: ImageStore, tools: Any, mirrored: str, spoil: Spoil, why: str
) -> None:
    built = tools.image()  # without layers: nothing is to be unpacked
    mirrored = registry.push("behind/empty", "v1", built)
    name = f"{gateway.host}/behind/empty:v1"
    gateway.spoil = only("/manifests/", spoil)
    with pytest.raises((FailedPrecondition, InvalidArgument), match=why) as caught:
        await store.pull(name, None)
    assert gateway.host in str(caught.value)
    assert len(str(caught.value)) < 500
    assert (await store.pull(mirrored, None)).id == built.id


FOR_EVER: dict[str, tuple[Spoil, type[Exception], str]] = {
    "500": (
        lambda _, a: Answer(500, body=b'{"errors": [{"code": "UNKNOWN", "message": "disk on fire"}]}'),
        RegistryUnavailable,
        r"HTTP 500 .*disk on fire",
    ),
    "429": (
        lambda _, a: Answer(429, {"Retry-After": "3600"}, b'{"errors": [{"code": "TOOMANYREQUESTS"}]}'),
        RegistryUnavailable,
        r"HTTP 429 .*TOOMANYREQUESTS; it wants to be asked again in 3600 s",
    ),
    "cut": (lambda _, a: change(a, cut=10), RegistryUnavailable, r"broke after \d+ of"),
    "stalled": (
        lambda _, a: change(a, hang=10, release=threading.Event()),
        RegistryUnavailable,
        r"broke after \d+ of \d+ bytes: no byte within 1 seconds",
    ),
    "lost": (lambda _, a: Answer(404), NotFound, "not found"),
    "forbidden": (lambda _, a: Answer(403), FailedPrecondition, "authorization failed: HTTP 403"),
    "odd": (lambda _, a: Answer(418, body=b"\xff\x00" * 100), FailedPrecondition, "HTTP 418"),
    "redirected to a file": (
        lambda _, a: Answer(307, {"Location": "file:///etc/passwd"}),
        FailedPrecondition,
        "redirects to 'file:///etc/passwd', which is no URL",
    ),
    "redirected to nothing": (
        lambda _, a: Answer(307, {"Location": "http://[::1"}),
        RegistryUnavailable,
        "Invalid URL in location header",
    ),
}


@pytest.mark.parametrize(("spoil", "kind", "why"), FOR_EVER.values(), ids=FOR_EVER.keys())
async def test_what_stays_wrong_is_one_sentence_with_host_and_blob(
    gateway: Gateway,
    open_store: Any,
    tools: Any,
    tmp_path: Path,
    pushed: Any,
    name: str,
    spoil: Spoil,
    kind: type[Exception],
    why: str,
) -> None:
    gateway.spoil = only(pushed.layers[0], spoil)
    limits = {"stall_timeout_s": 1.0} if "no byte" in why else {}
    async with open_store(tmp_path / "images", **limits) as store:
        with pytest.raises(kind, match=why) as caught:
            await store.pull(name, None)
        told = str(caught.value)
        assert gateway.host in told
        assert pushed.layers[0] in told
        assert "\n" not in told
        assert store.counters.failed == {type(caught.value).__name__: 1}
        assert store.list() == []


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Give host and port that take no connection: packets get no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("patience", ["", 'dial_timeout = "200ms"'])
async def test_a_dead_mirror_costs_its_time_out_once(
    registry: Any, open_store: Any, tmp_path: Path, certs: Path, pushed: Any, patience: str
) -> None:
    directory = certs / registry.host
    directory.mkdir()
    limit_s = 60 if patience else 1.0
    with black_hole() as dead:
        (directory / "hosts.toml").write_text(f'[host."http://{dead}"]\n{patience}\n')
        async with open_store(tmp_path / "images", connect_timeout_s=limit_s) as store:
            await check_whole(store, f"{registry.host}/behind/app:v1", pushed)
            assert store.counters.hosts[dead].failures == {"unreachable": 1}


async def test_a_name_that_nobody_knows_is_unavailable_at_once(store: ImageStore) -> None:
    with pytest.raises(RegistryUnavailable, match=r"registry\.invalid: cannot connect: \w"):
        await store.pull("registry.invalid/app:v1", None)
    assert store.counters.hosts["registry.invalid"].failures == {"unreachable": 1}


async def test_ten_callers_cost_one_pull(gateway: Gateway, store: ImageStore, pushed: Any, name: str) -> None:
    images = await asyncio.gather(*(store.pull(name, None) for _ in range(10)))
    assert {image.id for image in images} == {pushed.id}
    paths = [target for _, target, _ in gateway.requests]
    assert sorted(paths) == sorted(
        ["/v2/behind/app/manifests/v1", *(f"/v2/behind/app/blobs/{blob}" for blob in pushed.blobs)]
    )
    counters = store.counters
    assert (counters.pulls, counters.joined, counters.succeeded, counters.layers_fetched) == (1, 9, 1, 2)


async def test_the_node_s_limit_holds_over_all_pulls(
    fakes: Any, open_store: Any, tools: Any, tmp_path: Path
) -> None:
    registry = fakes()
    at_once: list[int] = []
    active: set[str] = set()
    for number in range(2):
        built = tools.image(*(tools.tar((f"{number}-{layer}", b"x")) for layer in range(3)))
        registry.offer(built, tag=f"v{number}")
        for layer in built.layers:

            def answer(request: Request, data: bytes = built.blobs[layer]) -> Answer:
                active.add(request.path)
                at_once.append(len(active))
                time.sleep(0.05)  # so that others would come, if they could
                active.discard(request.path)
                return Answer(body=data)

            registry.answers[f"/blobs/{layer}"] = answer
    async with open_store(tmp_path / "images", max_downloads=2) as store:
        await asyncio.gather(*(store.pull(f"{registry.host}/app:v{number}", None) for number in range(2)))
    assert len(at_once) == 6
    assert max(at_once) <= 2


async def test_how_far_a_pull_is_can_be_asked(
    gateway: Gateway, open_store: Any, tmp_path: Path, pushed: Any, name: str
) -> None:
    async with open_store(tmp_path / "images", stall_timeout_s=60) as store:
        await check_how_far(gateway, store, pushed, name)


async def check_how_far(gateway: Gateway, store: ImageStore, pushed: Any, name: str) -> None:
    release, size = threading.Event(), len(pushed.blobs[pushed.layers[0]])
    gateway.spoil = only(pushed.layers[0], lambda _, a: change(a, hang=500_000, release=release))
    pulls = [asyncio.ensure_future(store.pull(name, None)) for _ in range(2)]
    for _ in range(2000):
        await asyncio.sleep(0.005)
        if (states := store.pulls()) and states[0].layers_done == 1 and states[0].unpacked_bytes > 500_000:
            break
    (state,) = store.pulls()
    assert (state.reference, state.callers, state.layers_done, state.layers) == (name, 2, 1, 2)
    others = sum(len(pushed.blobs[layer]) for layer in pushed.layers[1:])
    assert state.unpacked_bytes == 500_000 + others
    assert state.total_bytes == size + others
    assert state.fetched_bytes == 500_000 + others + len(pushed.manifest) + len(pushed.blobs[pushed.id])
    for pull in pulls:
        pull.cancel()
    await asyncio.wait(pulls)
    release.set()
    assert store.pulls() == []
    assert store.counters.failed == {"cancelled": 1}


async def test_who_leaves_does_not_stop_the_others_but_the_last_does(
    gateway: Gateway, store: ImageStore, tools: Any, tmp_path: Path, pushed: Any, name: str
) -> None:
    release = threading.Event()
    gateway.spoil = only(pushed.layers[0], first(1, lambda _, a: change(a, hang=0, release=release)))
    pulls = [asyncio.ensure_future(store.pull(name, None)) for _ in range(3)]
    while not gateway.asked(pushed.layers[0]):
        await asyncio.sleep(0.005)
    for pull in pulls[:2]:
        pull.cancel()
    await asyncio.wait(pulls[:2])
    assert [state.callers for state in store.pulls()] == [1]
    pulls[2].cancel()
    await asyncio.wait(pulls)
    assert store.pulls() == []
    release.set()
    await check_whole(store, name, pushed)
    assert len(gateway.asked("/manifests/v1")) == 2
    await store.remove(name)
    assert tools.leftovers(tmp_path / "images") == []


async def test_an_image_that_has_not_changed_costs_one_question(
    gateway: Gateway, store: ImageStore, pushed: Any, name: str
) -> None:
    for text in (name, f"{gateway.host}/behind/app@{pushed.digest}"):
        image = await store.pull(text, None)
        gateway.requests.clear()
        assert await store.pull(text, None) == image
        assert [(verb, target.count("/manifests/")) for verb, target, _ in gateway.requests] == [("HEAD", 1)]
    assert store.counters.unchanged == 3


async def test_through_a_proxy_of_the_environment(
    gateway: Gateway, store: ImageStore, monkeypatch: pytest.MonkeyPatch, certs: Path, pushed: Any
) -> None:
    (certs / "_default").mkdir()
    (certs / "_default" / "hosts.toml").write_text('server = "http://registry.test"\n')
    monkeypatch.setenv("HTTP_PROXY", f"http://me:s3cret@{gateway.host}")
    await check_whole(store, "registry.test/behind/app:v1", pushed)
    assert {target.partition("/v2/")[0] for _, target, _ in gateway.requests} == {"http://registry.test"}
    gateway.spoil = lambda *_: Answer(502)
    with pytest.raises(RegistryUnavailable, match="HTTP 502"):
        await store.pull("registry.test/behind/app:v2", None)
    monkeypatch.setenv("HTTP_PROXY", "http://me:s3cret@127.0.0.1:9")
    with pytest.raises(RegistryUnavailable, match=r"through the proxy http://127\.0\.0\.1:9\)") as caught:
        await store.pull("registry.test/behind/app:v3", None)
    assert "s3cret" not in str(caught.value)


async def test_through_a_proxy_with_tls_inside(
    gateway: Gateway,
    registry: Any,
    store: ImageStore,
    monkeypatch: pytest.MonkeyPatch,
    certs: Path,
    pushed: Any,
    tools: Any,
    identity: Path,
    tmp_path: Path,
) -> None:
    tls = {"certificate": str(identity / "cert.pem"), "key": str(identity / "key.pem")}
    with tools.serve(tmp_path / "tls", registry.storage, http={"tls": tls}) as server:
        port = server.host.partition(":")[2]
        (certs / "_default").mkdir()
        (certs / "_default" / "hosts.toml").write_text(
            f'server = "https://registry.test:{port}"\nca = "{identity}/cert.pem"\n'
        )
        monkeypatch.setenv("HTTPS_PROXY", gateway.host)
        await check_whole(store, f"registry.test:{port}/behind/app:v1", pushed)
        assert {verb for verb, _, _ in gateway.requests} == {"CONNECT"}


async def test_offline_nothing_is_asked(
    gateway: Gateway, store: ImageStore, open_store: Any, tmp_path: Path, pushed: Any, name: str
) -> None:
    await store.pull(name, None)
    path = tmp_path / "saved.tar"
    await store.save([name], str(path))
    gateway.requests.clear()
    async with open_store(tmp_path / "other", offline=True) as alone:
        for text in (name, f"{gateway.host}/behind/app@{pushed.digest}"):
            with pytest.raises(FailedPrecondition, match=r"offline .*registry\.offline = true.*image load"):
                await alone.pull(text, None)
        await alone.load(str(path))
        assert (await alone.pull(name, None)).id == pushed.id
    assert gateway.requests == []


HUGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a configuration that is too large": lambda document: document["config"].update(size=1 << 40),
    "a negative size": lambda document: document["config"].update(size=-1),
    "a size that is no number": lambda document: document["layers"][0].update(size="many"),
    "a number beyond all bounds": lambda document: document["layers"][0].update(size=10**4000),
    "a digest that is a path": lambda document: document["config"].update(
        digest="sha256:../../../etc/passwd"
    ),
    "an algorithm nobody knows": lambda document: document["layers"][0].update(digest="md5:" + "0" * 32),
    "more layers than overlayfs takes": lambda document: document.update(layers=document["layers"] * 200),
    "a foreign layer": lambda document: document["layers"][0].update(
        mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    ),
    "an artifact": lambda document: document["config"].update(mediaType="application/vnd.cncf.helm.config"),
    "layers that are no list": lambda document: document.update(layers={"a": 1}),
    "one layer more than the configuration has": lambda document: document["layers"].append(
        document["layers"][0]
    ),
}


@pytest.mark.parametrize("spoil", HUGE.values(), ids=HUGE.keys())
async def test_a_manifest_that_asks_for_what_cannot_be_is_refused(
    fakes: Any, store: ImageStore, tools: Any, tmp_path: Path, spoil: Any
) -> None:
    registry = fakes()
    built = tools.image(tools.tar(("f", b"1")))
    document = json.loads(built.manifest)
    spoil(document)
    built.manifest = json.dumps(document).encode()
    registry.offer(built)
    with pytest.raises(InvalidArgument, match="manifest") as caught:
        await store.pull(f"{registry.host}/app:v1", None)
    assert len(str(caught.value)) < 500
    assert tools.leftovers(tmp_path / "images") == []


async def test_an_index_of_itself_ends(fakes: Any, store: ImageStore, tools: Any) -> None:
    registry = fakes()
    index = tools.image(tools.tar(("f", b"1")))
    for _ in range(6):
        index = tools.index((index, "amd64"), (index, "arm64"))
        registry.offer(index)
    with pytest.raises(InvalidArgument, match="indexes are nested too deep"):
        await store.pull(f"{registry.host}/app:v1", None)


async def test_headers_without_end_are_not_read(fakes: Any, store: ImageStore) -> None:
    registry = fakes()
    registry.answers[""] = Answer(headers={f"x-{number}": "y" * 1000 for number in range(2000)})
    with pytest.raises(RegistryUnavailable, match=registry.host):
        await store.pull(f"{registry.host}/app:v1", None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(body=b" " * (2 << 20)), "a token of more than 1048576 bytes is refused"),
        (Answer(headers={"content-length": None}, body=bytes(1 << 20), endless=True), "a token of more than"),
        (Answer(body=b"[" * 1_000_000), "no JSON object"),
        (Answer(body=b'{"token": 5}'), "has no token"),
        (Answer(body=b'{"token": "a\\r\\nX-Evil: 1"}'), "has no token"),
        (Answer(403, body=b'{"errors": [{"code": "DENIED"}]}'), r"no token for .*HTTP 403.*DENIED"),
        (Answer(302, {"Location": "http://127.0.0.1:9/"}), "no token for"),
    ],
)
async def test_a_token_server_that_is_odd_is_named(
    fakes: Any, store: ImageStore, answer: Answer, why: str
) -> None:
    registry, tokens = fakes(), fakes()
    registry.answers[""] = Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/t"'})
    tokens.answers[""] = answer
    with pytest.raises(FailedPrecondition, match=why) as caught:
        await store.pull(f"{registry.host}/app:v1", None)
    assert tokens.host in str(caught.value)


@pytest.mark.parametrize(
    "challenge", ["", "Negotiate", "Bearer", 'Bearer realm="file:///x"', "Basic " * 5000]
)
async def test_a_challenge_that_nobody_understands_is_told(
    fakes: Any, store: ImageStore, challenge: str
) -> None:
    registry = fakes()
    registry.answers[""] = Answer(401, {"WWW-Authenticate": challenge} if challenge else {})
    with pytest.raises(FailedPrecondition, match=registry.host) as caught:
        await store.pull(f"{registry.host}/app:v1", None)
    assert len(str(caught.value)) < 500
