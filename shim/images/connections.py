"""HTTP clients, one for each way of TLS, and what is known about the health of hosts."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from shim.errors import FailedPrecondition
from shim.images.hosts import Tls
from shim.images.http import httpx
from shim.images.settings import Settings
from shim.threads import Pool

_DOWN_FOR_S: Final = 15.0
_USER_AGENT: Final = "cri-shim"


class Connections:
    """Clients by TLS settings, made when first needed and kept for the next pull.

    A host that took no connection is *down* for a while: where another host can answer, it is not asked, so
    that a dead mirror costs its time-out once and not for each blob.
    """

    def __init__(
        self, settings: Settings, threads: Pool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # It logs whole URLs; those that registries redirect to are signed, which makes them secrets.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._threads = threads
        self._settings = settings
        self._clock = clock
        self._clients: dict[tuple[bool, Tls], httpx.AsyncClient] = {}
        self._down_until: dict[str, float] = {}
        self._making = asyncio.Lock()

    async def client(self, url: str, tls: Tls) -> httpx.AsyncClient:
        """Return the client for a URL.

        Raises:
            FailedPrecondition: a certificate of the configuration cannot be read.
        """
        secure = urlsplit(url).scheme == "https"
        key = (secure, tls if secure else Tls())
        async with self._making:
            client = self._clients.get(key)
            if client is None:
                # Reading the system's certificates takes tens of milliseconds.
                verify = await self._threads.run(_context, tls) if secure else False
                client = self._clients[key] = self._make(verify)
        return client

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    def is_down(self, netloc: str) -> bool:
        """Tell whether the host took no connection a short while ago."""
        return self._down_until.get(netloc, 0.0) > self._clock()

    def mark(self, netloc: str, *, up: bool) -> None:
        """Note how a host behaved."""
        if up:
            self._down_until.pop(netloc, None)
        else:
            self._down_until[netloc] = self._clock() + _DOWN_FOR_S

    def _make(self, verify: ssl.SSLContext | bool) -> httpx.AsyncClient:
        timeout = httpx.Timeout(
            self._settings.stall_timeout_s, connect=self._settings.connect_timeout_s, pool=None
        )
        return httpx.AsyncClient(
            verify=verify,
            timeout=timeout,
            follow_redirects=False,
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=30.0),
        )


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        for path in tls.ca:
            context.load_verify_locations(cafile=path)
        for certificate, key in tls.client:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join((*tls.ca, *(path for pair in tls.client for path in pair if path)))
        raise FailedPrecondition(f"cannot use the certificates of a registry ({named}): {error}") from error
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
