"""One exchange with one host: send, be let in, follow redirects, judge the status.

Credentials and configured headers go to the host that they are for; a redirect to another host carries none
of them, nor the client's certificate. The certificates that the host may be verified by count there too, as
for containerd: private registries have their storage beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

from shim.errors import FailedPrecondition, InvalidArgument
from shim.images import auth as authentication
from shim.images import failures, hosts, proxies
from shim.images.connections import Connections
from shim.images.counters import Counters
from shim.images.credentials import Found, Keychain
from shim.images.failures import HostFailed, Kind
from shim.images.http import httpx
from shim.model.image import Auth

_MAX_REDIRECTS: Final = 5
_MAX_TOKEN_BYTES: Final = 1 << 20
_MAX_EXPLANATION_BYTES: Final = 1 << 16
_EXPLANATION_S: Final = 2.0
_REDIRECTS: Final = (301, 302, 303, 307, 308)

Trace = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Hears of connections as they are made (httpcore, "Trace extension")."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all exchanges of a store use."""

    connections: Connections
    keychain: Keychain
    counters: Counters


class Exchange:
    """Requests about one repository with one caller's credentials.

    Args:
        shared: connections, credentials of the node, counters.
        repository: path of the repository, for URLs and the scope of tokens.
        auth: the caller's credentials, None for anonymous.
        trace: hears of connections; None: nobody does.
    """

    def __init__(
        self, shared: Shared, repository: str, auth: Auth | None, trace: Trace | None = None
    ) -> None:
        self._connections = shared.connections
        self._keychain = shared.keychain
        self._counters = shared.counters
        self._repository = repository
        self._auth = auth
        self._extensions = {"trace": trace} if trace is not None else {}
        self._authorization: dict[str, tuple[str, float]] = {}
        self._found: dict[str, Found] = {}
        self._login = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def open(
        self, host: hosts.Host, method: str, path: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, log in if asked to, follow redirects; the answer is a success.

        Raises:
            HostFailed: the host says no, or nothing.
            InvalidArgument: the caller's credentials are malformed.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                response = await self._ask(stack, host, method, f"{self._repository}/{path}", headers or {})
                await self._check_status(response, host, f"{method} /v2/{self._repository}/{path}")
            except FailedPrecondition as error:  # certificates, a credential helper, a token server
                kind = Kind.DENIED if isinstance(error, authentication.Unauthorized) else Kind.REFUSED
                raise self._count(host, HostFailed(str(error), kind, error=error)) from error
            except HostFailed as failure:
                raise self._count(host, failure) from failure.__cause__
            yield response

    def how_let_in(self, host: hosts.Host) -> str:
        """Return, for people, whose credentials the host was shown; empty if it wanted none."""
        found = self._found.get(host.netloc)
        return found.source if found is not None else ""

    def _count(self, host: hosts.Host, failure: HostFailed) -> HostFailed:
        self._counters.host(host.netloc).failures[failure.kind.name.lower()] += 1
        return failure

    async def _ask(
        self,
        stack: contextlib.AsyncExitStack,
        host: hosts.Host,
        method: str,
        path: str,
        headers: dict[str, str],
    ) -> httpx.Response:
        """Return the answer of a host, of which only the URL may be known and not what it speaks."""
        if not host.may_speak_tls:
            return await self._let_in(stack, host, method, path, headers)
        if self._connections.speaks_tls(host.netloc):
            return await self._let_in(stack, _over_tls(host), method, path, headers)
        broken: HostFailed | None = None
        plain: httpx.Response | None = None
        try:
            plain = await self._let_in(stack, host, method, path, headers)
            if plain.status_code != 400:
                return plain
        except HostFailed as failure:
            if failure.kind is not Kind.BROKEN:
                raise
            broken = failure
        # As servers answer, or not, when a client speaks plain http to TLS.
        with contextlib.suppress(HostFailed):
            response = await self._let_in(stack, _over_tls(host), method, path, headers)
            self._connections.note_tls(host.netloc)
            return response
        if plain is None:
            raise broken or HostFailed(f"{host.netloc}: no answer", Kind.BROKEN)
        return plain

    async def _let_in(
        self,
        stack: contextlib.AsyncExitStack,
        host: hosts.Host,
        method: str,
        path: str,
        headers: dict[str, str],
    ) -> httpx.Response:
        """Send a request; where the answer is that we must log in, do, and send it again."""
        url = f"{host.base}/{path}"
        if host.namespace:
            url += f"?ns={host.namespace}"
        shown = self._authorization.get(host.netloc)
        response = await self._send(stack, host, method, url, headers)
        if response.status_code == 401:
            challenges = authentication.parse_challenges(response.headers.get_list("WWW-Authenticate"))
            await response.aclose()
            await self._log_in(host, challenges, shown)
            response = await self._send(stack, host, method, url, headers)
        return response

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
            tls = host.tls if is_own else replace(host.tls, client=())
            sent = list(headers.items())
            if is_own:
                sent += host.headers
                kept = self._authorization.get(host.netloc)
                if kept is not None and kept[1] > time.monotonic():
                    sent.append(("Authorization", kept[0]))
            response = await self._request(host, is_own, tls, method, url, headers=sent)
            stack.push_async_callback(response.aclose)
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                return response
            await response.aclose()
            try:
                url = urljoin(url, response.headers["Location"])
                usable = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
            except ValueError:
                usable = False
            if not usable:
                shown = failures.clean(response.headers["Location"])
                raise HostFailed(f"{split.netloc}: redirects to {shown!r}, which is no URL", Kind.REFUSED)
        raise HostFailed(f"{own[0]}: redirects more than {_MAX_REDIRECTS} times", Kind.REFUSED)

    async def _request(
        self, host: hosts.Host, is_own: bool, tls: hosts.Tls, method: str, url: str, **what: Any
    ) -> httpx.Response:
        """Send one request; return the head of its answer."""
        netloc = urlsplit(url).netloc
        counters = self._counters.host(netloc)
        timeout = self._connections.timeout(host.dial_timeout_s)
        client = await self._connections.client(url, tls)
        counters.requests += 1
        begin = time.monotonic()
        try:
            request = client.build_request(method, url, timeout=timeout, extensions=self._extensions, **what)
            response = await client.send(request, stream=True)
        except (*failures.NETWORK_ERRORS, httpx.InvalidURL) as error:
            if isinstance(error, httpx.InvalidURL):
                raise HostFailed(f"{netloc}: no usable URL", Kind.REFUSED) from error
            proxy = self._connections.proxy(url)
            through = f" (through the proxy {proxies.show(proxy)})" if proxy else ""
            why = f"{netloc}{through}: {failures.say(error, timeout)}"
            kind = failures.kind_of(error)
            if is_own and kind in (Kind.UNREACHABLE, Kind.SILENT):
                self._connections.mark_down(url, why)
            raise HostFailed(why, kind) from error
        counters.wait_seconds += time.monotonic() - begin
        if is_own:
            self._connections.mark_up(url)
        return response

    async def _log_in(
        self,
        host: hosts.Host,
        challenges: list[authentication.Challenge],
        refused: tuple[str, float] | None,
    ) -> None:
        """Get what the host wants to see instead of ``refused``."""
        async with self._login:
            if self._authorization.get(host.netloc) != refused:
                return  # another request has done it meanwhile
            if host.netloc not in self._found:
                self._found[host.netloc] = await self._keychain.find(
                    self._auth, host.netloc, self._repository
                )
            credential = self._found[host.netloc].credential
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
        offered = failures.clean(", ".join(challenge.scheme for challenge in challenges)) or "nothing"
        raise HostFailed(
            f"{host.netloc}: authorization failed: the registry wants credentials ({offered}), none fit",
            Kind.DENIED,
        )

    def _keep(self, host: hosts.Host, value: str, expires_at_s: float = float("inf")) -> None:
        self._authorization[host.netloc] = (value, expires_at_s)

    async def _fetch_token(
        self,
        host: hosts.Host,
        challenge: authentication.Challenge,
        credential: authentication.Credential | None,
    ) -> authentication.Token:
        """Ask the token server that the host names, which may be verified by the host's certificates."""
        scope = f"repository:{self._repository}:pull"
        wanted = authentication.token_request(challenge, scope, credential, host.base)
        where = urlsplit(wanted.url).netloc
        headers = [("Authorization", wanted.authorization)] if wanted.authorization else []
        if where == host.netloc:
            headers += host.headers
        url = wanted.url
        what: dict[str, Any] = {"headers": headers}
        if wanted.method == "POST":
            what["data"] = _by_name(wanted.parameters)
        else:
            url += ("&" if urlsplit(url).query else "?") + urlencode(wanted.parameters)
        try:
            response = await self._request(host, False, host.tls, wanted.method, url, **what)
        except HostFailed as failure:
            raise HostFailed(
                f"{failure}, asked for a token for {host.netloc}",
                failure.kind,
                retry_after_s=failure.retry_after_s,
            ) from failure
        try:
            if response.status_code != 200:
                what_failed = f"{where}: no token for {scope} of {host.netloc}"
                raise await _refusal(response, what_failed)
            body = await read_body(response, where, _MAX_TOKEN_BYTES, "a token")
        except InvalidArgument as error:
            raise HostFailed(str(error), Kind.DENIED) from error
        finally:
            await response.aclose()
        self._counters.host(host.netloc).tokens += 1
        return authentication.parse_token(body, time.monotonic(), where)

    async def _check_status(self, response: httpx.Response, host: hosts.Host, what: str) -> None:
        if response.status_code not in (200, 206):
            raise await _refusal(response, f"{host.netloc}: {what}")


def _over_tls(host: hosts.Host) -> hosts.Host:
    """Return the host with TLS; on loopback nobody can be in between, so there it need not be verified."""
    tls = host.tls if host.tls != hosts.Tls() else hosts.Tls(skip_verify=True)
    return replace(host, base=f"https:{host.base.removeprefix('http:')}", tls=tls, may_speak_tls=False)


def _by_name(parameters: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parameters:
        found.setdefault(name, []).append(value)
    return found


async def _refusal(response: httpx.Response, what: str) -> HostFailed:
    """Return what a status that is no success means, with what the registry says about it."""
    code = response.status_code
    if code == 404:
        return HostFailed(f"{what}: not found", Kind.MISSING)
    told = await _explanation(response)
    why = f"HTTP {code} {failures.clean(response.reason_phrase)}".rstrip() + (f": {told}" if told else "")
    if code in (401, 403):
        return HostFailed(f"{what}: authorization failed: {why}", Kind.DENIED)
    retry_after_s = failures.parse_retry_after(response.headers.get("Retry-After", ""))
    if code in (408, 429):
        later = f"; it wants to be asked again in {retry_after_s:.0f} s" if retry_after_s else ""
        return HostFailed(f"{what}: {why}{later}", Kind.BUSY, retry_after_s=retry_after_s)
    kind = Kind.ERROR if code >= 500 else Kind.REFUSED
    return HostFailed(f"{what}: {why}", kind, retry_after_s=retry_after_s if code == 503 else 0.0)


async def _explanation(response: httpx.Response) -> str:
    """Return the message of an error's body (distribution specification, "Error codes"); empty if none."""
    body = bytearray()
    with contextlib.suppress(*failures.NETWORK_ERRORS, TimeoutError, ValueError, RecursionError, LookupError):
        async with asyncio.timeout(_EXPLANATION_S):
            async for data in response.aiter_raw():
                body += data
                if len(body) > _MAX_EXPLANATION_BYTES:
                    return ""
        first = json.loads(body)["errors"][0]
        texts = [first.get("code", ""), first.get("message", "")] if isinstance(first, dict) else []
        return failures.clean(": ".join(text for text in texts if isinstance(text, str) and text))
    return ""


async def read_body(response: httpx.Response, netloc: str, limit: int, what: str = "a manifest") -> bytes:
    """Return a whole body of at most ``limit`` bytes."""
    body = bytearray()
    try:
        async for data in response.aiter_raw():
            body += data
            if len(body) > limit:
                raise InvalidArgument(f"{netloc}: {what} of more than {limit} bytes is refused")
    except failures.NETWORK_ERRORS as error:
        why = failures.say(error, httpx.Timeout(**response.request.extensions["timeout"]))
        raise HostFailed(f"{netloc}: the transfer broke: {why}", failures.kind_of(error)) from error
    return bytes(body)
