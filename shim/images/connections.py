"""HTTP clients, one for each way of TLS and each proxy, and what is known about the health of hosts."""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from shim.errors import FailedPrecondition
from shim.images import proxies
from shim.images.hosts import Tls
from shim.images.http import httpx
from shim.images.settings import Settings
from shim.threads import Pool

_DOWN_FOR_S: Final = 15.0
_MAX_DOWN_FOR_S: Final = 120.0
_MAX_DOWN: Final = 1000  # references come from whoever may make pods
_USER_AGENT: Final = "cri-shim"


class _Key(NamedTuple):
    """What a client is made of. ``stamp``: of the certificates' files, so that new ones count at once."""

    secure: bool
    tls: Tls
    proxy: str
    stamp: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class _Down:
    until: float
    times: int
    why: str


class Connections:
    """Clients by TLS settings, made when first needed and kept for the next pull.

    A host that takes no connection, or takes it and says nothing, is *down* for a while, longer each time:
    where another host can answer, it is not asked, so that a dead mirror costs its time-out once and not for
    each blob. All pulls share what is known.

    Args:
        settings: time-outs, and whether the network may be used at all.
        threads: where certificates are read.
        clock: seconds, monotonic.
        environ: has the proxies.
    """

    def __init__(
        self,
        settings: Settings,
        threads: Pool,
        clock: Callable[[], float] = time.monotonic,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        # It logs whole URLs; those that registries redirect to are signed, which makes them secrets.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._threads = threads
        self._settings = settings
        self._clock = clock
        self._environ = environ
        self._clients: dict[_Key, httpx.AsyncClient] = {}
        self._replaced: list[httpx.AsyncClient] = []  # a pull may be using one still
        self._down: dict[str, _Down] = {}
        self._speaks_tls: set[str] = set()
        self._making = asyncio.Lock()

    async def client(self, url: str, tls: Tls) -> httpx.AsyncClient:
        """Return the client for a URL.

        Raises:
            FailedPrecondition: a certificate of the configuration cannot be read, a proxy of the environment
                is malformed, or this node is to stay offline.
        """
        if self._settings.offline:
            raise FailedPrecondition(
                f"{urlsplit(url).netloc} is not asked: this node is offline by its configuration"
                " (registry.offline = true)"
            )
        secure = urlsplit(url).scheme == "https"
        used = tls if secure else Tls()
        paths = _paths(used)
        stamp = await self._threads.run(_stamp, paths) if paths else ()
        key = _Key(secure, used, self.proxy(url), stamp)
        async with self._making:
            client = self._clients.get(key)
            if client is None:
                # Reading the system's certificates takes tens of milliseconds.
                verify = await self._threads.run(_context, tls) if secure else False
                for old in [old for old in self._clients if old[:3] == key[:3]]:
                    self._replaced.append(self._clients.pop(old))
                client = self._clients[key] = self._make(verify, key.proxy)
        return client

    def proxy(self, url: str) -> str:
        """Return the URL of the proxy for ``url``, empty for none. It may hold a password."""
        return proxies.from_environment(self._environ).for_url(url)

    def timeout(self, dial_timeout_s: float = 0.0) -> httpx.Timeout:
        """Return the time limits of a request; 0: connections may take as long as the settings say."""
        settings = self._settings
        return httpx.Timeout(
            settings.stall_timeout_s, connect=dial_timeout_s or settings.connect_timeout_s, pool=None
        )

    async def close(self) -> None:
        """Close all connections."""
        for client in (*self._clients.values(), *self._replaced):
            await client.aclose()
        self._clients.clear()
        self._replaced.clear()

    def is_down(self, base: str) -> bool:
        """Tell whether the host of a URL did not answer a short while ago."""
        known = self._down.get(_host(base))
        return known is not None and known.until > self._clock()

    def why_down(self, base: str) -> str:
        """Return what happened to a host that is down, empty for one that is not."""
        return self._down[_host(base)].why if self.is_down(base) else ""

    def mark_down(self, base: str, why: str) -> None:
        """Note that a host did not answer. Failures at the same time count as one."""
        known = self._down.get(_host(base))
        if known is None or known.until <= self._clock():
            times = known.times + 1 if known is not None else 0
            until = self._clock() + min(_DOWN_FOR_S * 2**times, _MAX_DOWN_FOR_S)
            self._down[_host(base)] = _Down(until, times, why)
            if len(self._down) > _MAX_DOWN:
                del self._down[next(iter(self._down))]

    def mark_up(self, base: str) -> None:
        """Note that a host has answered."""
        self._down.pop(_host(base), None)

    def speaks_tls(self, netloc: str) -> bool:
        """Tell whether a host whose URL says http was found to speak TLS."""
        return netloc in self._speaks_tls

    def note_tls(self, netloc: str) -> None:
        """Note that a host whose URL says http speaks TLS."""
        self._speaks_tls.add(netloc)

    def _make(self, verify: ssl.SSLContext | bool, proxy: str) -> httpx.AsyncClient:
        try:
            return httpx.AsyncClient(
                verify=verify,
                timeout=self.timeout(),
                follow_redirects=False,
                trust_env=False,  # proxies are read by ``proxies``, as containerd's users write them
                proxy=proxy or None,
                cookies=_no_cookies(),
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                limits=httpx.Limits(
                    max_connections=None, max_keepalive_connections=16, keepalive_expiry=30.0
                ),
            )
        except ImportError:
            raise FailedPrecondition(
                f"{proxies.show(proxy)}: proxies that speak SOCKS need the Python package socksio"
            ) from None


def _no_cookies() -> http.cookiejar.CookieJar:
    """Return a jar that takes none: what one caller is let in with must not let in the next."""
    return http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))


def _host(url: str) -> str:
    split = urlsplit(url)
    return f"{split.scheme}://{split.netloc}"


def _paths(tls: Tls) -> tuple[str, ...]:
    return (*tls.ca, *(path for pair in tls.client for path in pair if path))


def _stamp(paths: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return what changes when files do; nothing for one that cannot be looked at: reading it will tell."""
    stamps: list[tuple[int, ...]] = []
    for path in paths:
        try:
            info = os.stat(path)
        except OSError:
            stamps.append(())
        else:
            stamps.append((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns))
    return tuple(stamps)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for path in tls.ca:
        with _naming(path):
            context.load_verify_locations(cafile=path)
    for certificate, key in tls.client:
        with _naming(f"{certificate} with {key}" if key else certificate):
            context.load_cert_chain(certificate, key or None, password=_refuse_password)
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ssl.SSLError, ValueError) as error:
        why = getattr(error, "strerror", "") or getattr(error, "reason", "") or str(error)
        raise FailedPrecondition(f"cannot use {what}, a certificate for a registry: {why}") from error


def _refuse_password() -> str:
    """Called for a key that is encrypted; without it OpenSSL would ask the terminal."""
    raise ValueError("its key is encrypted")
