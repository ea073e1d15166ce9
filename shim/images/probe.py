"""Tries a pull host by host and times its steps, with connections that nobody used before."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from shim.errors import FailedPrecondition, ShimError
from shim.images import hosts, manifest, platforms, proxies, reference
from shim.images.connections import Connections
from shim.images.counters import Counters
from shim.images.exchange import Shared
from shim.images.registry import Document, Session
from shim.images.settings import Settings
from shim.model.image import Auth, Descriptor
from shim.threads import Pool

_MAX_NESTED: Final = 3
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a try.

    Attributes:
        url: of the host.
        name: ``dns``, ``connect``, ``tls``, ``login``, ``manifest`` or ``blob``.
        seconds: that it took.
        error: what went wrong, empty for nothing.
        detail: for people.
    """

    url: str
    name: str
    seconds: float
    error: str = ""
    detail: str = ""


@dataclass(slots=True)
class _Watch:
    """Notes when connections and requests began and ended (httpcore, "Trace extension")."""

    begun: dict[str, float] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[str, int, float]] = field(default_factory=list)  # (URL, status, seconds)
    url: str = ""

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        name, _, end = event.rpartition(".")
        name = name.rpartition(".")[2]
        now = time.monotonic()
        if end == "started":
            self.begun[name] = now
            if name == "send_request_headers":
                url = info["request"].url
                port = f":{url.port}" if url.port else ""
                self.url = f"{url.scheme.decode()}://{url.host.decode()}{port}{url.target.decode()}"
        elif end == "complete" and name in self.begun:
            self.took.setdefault(name, now - self.begun[name])
            if name == "receive_response_headers":
                status = int(info["return_value"][1])
                self.answers.append((self.url, status, now - self.begun["send_request_headers"]))
            elif name == "start_tls":
                tls = info["return_value"].get_extra_info("ssl_object")
                self.details[name] = f"{tls.version()}, {tls.cipher()[0]}" if tls is not None else ""
            elif name == "connect_tcp":
                address = info["return_value"].get_extra_info("server_addr")
                self.details.setdefault(name, f"{address[0]} port {address[1]}" if address else "")

    @property
    def unfinished(self) -> str:
        """The step of a connection that has not ended well, empty if there is none."""
        for event, name in (("connect_tcp", "connect"), ("start_tls", "tls")):
            if event in self.begun and event not in self.took:
                return name
        return ""


async def probe(
    settings: Settings, shared: Shared, threads: Pool, text: str, auth: Auth | None
) -> AsyncIterator[Step]:
    """Yield the steps of a try at each host, in order; one that fails is the last of its host.

    Raises:
        InvalidArgument: the reference or ``auth`` is malformed.
        FailedPrecondition: a file of the configuration is, or this node is offline.
    """
    if settings.offline:
        raise FailedPrecondition("nothing is tried: this node is offline (registry.offline = true)")
    ref = reference.parse(text).canonical()
    digest = ref.digest
    for host in await threads.run(hosts.load, settings.config_paths, ref.domain):
        asked = ref
        if hosts.RESOLVE not in host.capabilities:
            if not digest:
                why = "it may not resolve tags (capabilities), and no digest is known: give NAME@DIGEST"
                yield Step(host.base, "manifest", 0.0, detail=f"not tried: {why}")
                continue
            asked = ref.with_digest(digest)
        connections = Connections(settings, threads)
        own = Shared(connections, shared.keychain, Counters())
        try:
            async for step, found in _try(own, asked, auth, host):
                digest = digest or found
                yield step
        finally:
            await connections.close()


async def _try(
    shared: Shared, ref: reference.Reference, auth: Auth | None, host: hosts.Host
) -> AsyncIterator[tuple[Step, str]]:
    """Yield (step, digest of the manifest or an empty text)."""
    step = await _look_up(shared.connections, host)
    if step is not None:
        yield step, ""
        if step.error:
            return
    watch = _Watch()
    session = Session(
        shared, ref, auth, (replace(host, capabilities=host.capabilities | {hosts.RESOLVE}),), watch, 1
    )
    try:
        top = await session.resolve()
        failure = ""
    except ShimError as error:
        top, failure = None, str(error)
    for step in _connecting(host.base, watch, failure):
        yield step, ""
    if failure and watch.unfinished:
        return
    tokens = [answer for answer in watch.answers if "/manifests/" not in answer[0]]
    refused = any(status in (401, 403) for _, status, _ in watch.answers[-1:])
    if tokens or session.how_let_in(host) or refused:
        who = session.how_let_in(host) or "none"
        detail = f"credentials: {who}" + (f"; token of {urlsplit(tokens[0][0]).netloc}" if tokens else "")
        seconds = sum(answer[2] for answer in tokens)
        yield Step(host.base, "login", seconds, failure if refused else "", detail), ""
        if refused:
            return
    seconds = watch.answers[-1][2] if watch.answers else 0.0
    if top is None:
        yield Step(host.base, "manifest", seconds, failure), ""
        return
    detail = f"{top.descriptor.media_type} {top.descriptor.digest}"
    yield Step(host.base, "manifest", seconds, "", detail), top.descriptor.digest
    yield await _first_byte(session, top, host), ""


async def _look_up(connections: Connections, host: hosts.Host) -> Step | None:
    """Return how long the name of the host, or of its proxy, takes; None for an address."""
    proxy = connections.proxy(host.base)
    split = urlsplit(proxy or host.base)
    name = split.hostname or ""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return None
    begin = time.monotonic()
    through = f"of the proxy {proxies.show(proxy)}: " if proxy else ""
    try:
        async with asyncio.timeout(connections.timeout(host.dial_timeout_s).connect):
            found = await asyncio.get_running_loop().getaddrinfo(
                name, split.port or _PORTS.get(split.scheme, 0), type=socket.SOCK_STREAM
            )
    except (OSError, UnicodeError, TimeoutError) as error:
        why = getattr(error, "strerror", "") or str(error) or "no answer within the time limit"
        return Step(host.base, "dns", time.monotonic() - begin, f"{through}{name}: {why}")
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return Step(host.base, "dns", time.monotonic() - begin, "", through + ", ".join(addresses))


def _connecting(url: str, watch: _Watch, failure: str) -> list[Step]:
    steps: list[Step] = []
    for event, name in (("connect_tcp", "connect"), ("start_tls", "tls")):
        if event in watch.took:
            steps.append(Step(url, name, watch.took[event], "", watch.details.get(event, "")))
        elif event in watch.begun:
            steps.append(Step(url, name, time.monotonic() - watch.begun[event], failure))
            break
    return steps


async def _first_byte(session: Session, top: Document, host: hosts.Host) -> Step:
    begin = time.monotonic()
    try:
        blob = await _some_blob(session, top, _MAX_NESTED)
        begin = time.monotonic()
        async with contextlib.aclosing(session.blob(blob)) as stream:
            size = len(await anext(stream, b""))
    except ShimError as error:
        return Step(host.base, "blob", time.monotonic() - begin, str(error))
    told = f"the first {size} of {blob.size} bytes of {blob.digest}"
    return Step(host.base, "blob", time.monotonic() - begin, "", told)


async def _some_blob(session: Session, document: Document, depth: int) -> Descriptor:
    """Return the lowest layer of the image for this machine, its configuration if it has none."""
    where = f"manifest {document.descriptor.digest}"
    if document.descriptor.media_type not in manifest.INDEXES:
        parts = manifest.parse_manifest(document.data, where)
        return (*parts.layers, parts.config)[0]
    entries = platforms.choose(manifest.parse_index(document.data, where), platforms.host())
    if not entries or not depth:
        raise FailedPrecondition(f"{where}: it has no image for this machine")
    return await _some_blob(session, await session.document(entries[0]), depth - 1)
