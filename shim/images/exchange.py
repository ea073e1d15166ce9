"""One exchange with one host: send, be let in, follow redirects, judge the status.

Credentials and configured headers go to the host that they are for; a redirect to another host carries none
of them, nor that host's TLS settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urljoin, urlsplit

from shim.errors import InvalidArgument
from shim.images import auth as authentication
from shim.images import hosts
from shim.images.connections import Connections
from shim.images.http import httpx
from shim.model.image import Auth

_MAX_REDIRECTS: Final = 5
_MAX_TOKEN_BYTES: Final = 1 << 20
_RETRY_STATUS: Final = frozenset((408, 429))


class HostFailed(Exception):
    """One host could not help. ``unavailable``: another try later may."""

    def __init__(
        self, why: str, *, unavailable: bool = False, missing: bool = False, denied: bool = False
    ) -> None:
        super().__init__(why)
        self.unavailable = unavailable
        self.missing = missing
        self.denied = denied


class Exchange:
    """Requests about one repository with one caller's credentials.

    Args:
        connections: shared by all.
        repository: path of the repository, for URLs and the scope of tokens.
        auth: the caller's credentials, None for anonymous.
    """

    def __init__(self, connections: Connections, repository: str, auth: Auth | None) -> None:
        self._connections = connections
        self._repository = repository
        self._auth = auth
        self._authorization: dict[str, tuple[str, float]] = {}
        self._login = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def open(
        self, host: hosts.Host, method: str, path: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, log in if asked to, follow redirects; the answer is a success.

        Raises:
            HostFailed: the host says no, or nothing.
        """
        url = f"{host.base}/{self._repository}/{path}"
        if host.namespace:
            url += f"?ns={host.namespace}"
        async with contextlib.AsyncExitStack() as stack:
            response = await self._send(stack, host, method, url, headers or {})
            if response.status_code == 401:
                challenges = authentication.parse_challenges(response.headers.get_list("WWW-Authenticate"))
                await response.aclose()
                await self._log_in(host, challenges)
                response = await self._send(stack, host, method, url, headers or {})
            _check_status(response, f"{host.netloc}: {method} {urlsplit(url).path}")
            yield response

    async def _send(
        self,
        stack: contextlib.AsyncExitStack,
        host: hosts.Host,
        method: str,
        url: str,
        headers: dict[str, str],
    ) -> httpx.Response:
        own = urlsplit(url).netloc, urlsplit(url).scheme
        for _ in range(_MAX_REDIRECTS):
            split = urlsplit(url)
            is_own = (split.netloc, split.scheme) == own
            client = await self._connections.client(url, host.tls if is_own else hosts.Tls())
            sent = list(headers.items())
            if is_own:
                sent += host.headers
                kept = self._authorization.get(host.netloc)
                if kept is not None and kept[1] > time.monotonic():
                    sent.append(("Authorization", kept[0]))
            try:
                response = await client.send(client.build_request(method, url, headers=sent), stream=True)
            except httpx.HTTPError as error:
                if is_own and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    self._connections.mark(split.netloc, up=False)
                raise HostFailed(f"{split.netloc}: {say(error)}", unavailable=True) from error
            stack.push_async_callback(response.aclose)
            self._connections.mark(split.netloc, up=True)
            if response.status_code not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                return response
            await response.aclose()
            url = urljoin(url, response.headers["Location"])
            if urlsplit(url).scheme not in ("http", "https"):
                raise HostFailed(f"{split.netloc}: redirects to {url[:100]!r}")
        raise HostFailed(f"{own[0]}: redirects more than {_MAX_REDIRECTS} times")

    async def _log_in(self, host: hosts.Host, challenges: list[authentication.Challenge]) -> None:
        credential = authentication.credential_for(self._auth, host.netloc)
        async with self._login:
            if credential and credential.registry_token:
                self._keep(host, f"Bearer {credential.registry_token}")
                return
            for challenge in challenges:
                if challenge.scheme == "bearer":
                    token = await self._fetch_token(host, challenge, credential)
                    self._keep(host, f"Bearer {token.value}", token.expires_at_s)
                    return
                if challenge.scheme == "basic" and credential and credential.username:
                    self._keep(host, credential.basic())
                    return
        offered = ", ".join(challenge.scheme for challenge in challenges) or "nothing"
        raise HostFailed(
            f"{host.netloc}: authorization failed: the registry wants credentials ({offered}), none fit",
            denied=True,
        )

    def _keep(self, host: hosts.Host, value: str, expires_at_s: float = float("inf")) -> None:
        self._authorization[host.netloc] = (value, expires_at_s)

    async def _fetch_token(
        self,
        host: hosts.Host,
        challenge: authentication.Challenge,
        credential: authentication.Credential | None,
    ) -> authentication.Token:
        scope = f"repository:{self._repository}:pull"
        wanted = authentication.token_request(challenge, scope, credential, host.base)
        where = urlsplit(wanted.url).netloc
        client = await self._connections.client(wanted.url, host.tls if where == host.netloc else hosts.Tls())
        headers = {"Authorization": wanted.authorization} if wanted.authorization else {}
        try:
            if wanted.method == "POST":
                response = await client.post(wanted.url, data=dict(wanted.parameters), headers=headers)
            else:
                response = await client.get(wanted.url, params=list(wanted.parameters), headers=headers)
        except httpx.HTTPError as error:
            raise HostFailed(f"{where}: cannot get a token: {say(error)}", unavailable=True) from error
        if response.status_code >= 500:
            raise HostFailed(f"{where}: cannot get a token: HTTP {response.status_code}", unavailable=True)
        if response.status_code != 200 or len(response.content) > _MAX_TOKEN_BYTES:
            raise HostFailed(
                f"{where}: authorization failed: no token for {scope}: HTTP {response.status_code}",
                denied=True,
            )
        return authentication.parse_token(response.content, time.monotonic(), where)


def say(error: httpx.HTTPError) -> str:
    """Return what went wrong, for a message."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection within the time limit"
    if isinstance(error, httpx.TimeoutException):
        return "no byte within the time limit"
    return str(error) or type(error).__name__


def _check_status(response: httpx.Response, what: str) -> None:
    code = response.status_code
    if code in (200, 206):
        return
    if code == 404:
        raise HostFailed(f"{what}: not found", missing=True)
    if code in (401, 403):
        raise HostFailed(f"{what}: authorization failed: HTTP {code}", denied=True)
    raise HostFailed(
        f"{what}: HTTP {code} {response.reason_phrase}", unavailable=code in _RETRY_STATUS or code >= 500
    )


async def read_body(response: httpx.Response, netloc: str, limit: int) -> bytes:
    """Return a whole body of at most ``limit`` bytes."""
    body = bytearray()
    try:
        async for data in response.aiter_raw():
            body += data
            if len(body) > limit:
                raise InvalidArgument(f"{netloc}: a manifest of more than {limit} bytes is refused")
    except httpx.HTTPError as error:
        raise HostFailed(f"{netloc}: the transfer broke: {say(error)}", unavailable=True) from error
    return bytes(body)
