"""The registry client: from a reference to documents and streams of blobs.

A ``Session`` is for one reference and one caller's credentials. Hosts are asked in the configured order,
those that are down last; what each said is told when none could help. What fails for a while is tried again,
after pauses or when the host says so; a blob goes on where it broke. A host whose content is not what its
digest says is not asked for it again while another may have it.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, RegistryUnavailable, ShimError
from shim.images import auth as authentication
from shim.images import digest, failures, hosts, manifest
from shim.images.exchange import Exchange, Shared, Trace, read_body
from shim.images.failures import HostFailed, Kind, Patience
from shim.images.http import httpx
from shim.images.reference import Reference
from shim.model.image import Auth, Descriptor

log = logging.getLogger(__name__)

_RENEWING_BYTES: Final = 1 << 16  # a transfer that brought so much was worth its try
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class ImageNotFound(NotFound):
    """No host has the image; the message is the one that users of containerd know."""

    def __init__(self, reference: str, what: str = "") -> None:
        super().__init__("image", reference)
        self.args = (f'failed to resolve reference "{reference}": {what or reference}: not found',)


class Lied(FailedPrecondition):
    """A blob is not what its descriptor says; the message names the host."""


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index, verified. ``descriptor.media_type`` is what it really is."""

    descriptor: Descriptor
    data: bytes


class Session:
    """Talks to the hosts of one reference with one caller's credentials.

    Args:
        shared: what all sessions use.
        reference: the image.
        auth: the caller's credentials, None for anonymous.
        hosts_: the hosts to ask, in order.
        trace: hears of connections as they are made; None: nobody does.
        attempts: how often a host is asked that fails for a while.
    """

    def __init__(
        self,
        shared: Shared,
        reference: Reference,
        auth: Auth | None,
        hosts_: tuple[hosts.Host, ...],
        trace: Trace | None = None,
        attempts: int = failures.ATTEMPTS,
    ) -> None:
        self._connections = shared.connections
        self._counters = shared.counters
        self._reference = reference
        self._attempts = attempts
        self._hosts = hosts_
        self._exchange = Exchange(shared, reference.path, auth, trace)
        self._givers: dict[str, set[str]] = {}  # digest -> hosts whose bytes the try under way has
        self._liars: dict[str, set[str]] = {}  # digest -> hosts whose bytes were wrong
        self.fetched_bytes = 0

    async def head(self) -> Descriptor | None:
        """Return what the tag means now without fetching it; None where a registry does not tell.

        Raises:
            RegistryUnavailable: no host takes a connection, so that there is nothing more to try.
        """
        failed: HostFailed | None = None
        silent = True
        for host in self._usable(hosts.RESOLVE):
            try:
                async with self._exchange.open(
                    host, "HEAD", f"manifests/{self._reference.object}", {"Accept": manifest.ACCEPT}
                ) as response:
                    found = digest.check(response.headers.get("Docker-Content-Digest"), host.netloc)
                    return Descriptor(response.headers.get("Content-Type", ""), found, 0)
            except HostFailed as failure:
                failed = failures.worse(failed, failure)
                silent = silent and failure.kind in (Kind.UNREACHABLE, Kind.SILENT)
            except InvalidArgument:
                silent = False
        if failed is not None and silent:
            raise self._give_up(failed, self._what())
        return None

    async def resolve(self) -> Document:
        """Fetch what the reference names.

        Raises:
            ImageNotFound: no host has it.
            RegistryUnavailable: hosts that might have it did not answer.
            Unauthorized: they do not let us in.
            FailedPrecondition, InvalidArgument: what they gave is not what it should be.
        """
        want = self._reference.digest
        capability = hosts.PULL if want else hosts.RESOLVE
        return await self._fetch(self._reference.object, want, "", capability, self._what())

    async def document(self, descriptor: Descriptor) -> Document:
        """Fetch a manifest or index by digest."""
        what = f"cannot fetch manifest {descriptor.digest} of {self._reference}"
        return await self._fetch(
            descriptor.digest, descriptor.digest, descriptor.media_type, hosts.PULL, what
        )

    async def content(self, descriptor: Descriptor, what: str) -> bytes:
        """Return a small blob as a whole, verified. ``what`` it is, for messages."""
        while True:
            data = bytearray()
            try:
                async with contextlib.aclosing(self.blob(descriptor)) as stream:
                    async for piece in stream:
                        data += piece
                digest.verify(bytes(data), descriptor.digest, what)
            except FailedPrecondition as error:
                # A host that lied has left its name; where nobody gave anything there is nobody to blame.
                if (failure := self.blame(descriptor, error)) is not None:
                    raise failure from None
                continue
            return bytes(data)

    async def blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a blob, as many as the descriptor says; they are not verified here.

        A broken transfer goes on where it broke, if need be from the next host. Where the bytes turn out to
        be wrong, tell ``blame``.
        """
        done = renewed = 0
        patience = Patience(self._attempts)
        self._givers[descriptor.digest] = set()
        failure: HostFailed | None = None
        while True:
            is_retry, failure = failure is not None, None
            for host in self._usable(hosts.PULL, descriptor.digest):
                self._counters.host(host.netloc).retries += is_retry
                self._counters.host(host.netloc).resumed += done > 0
                try:
                    async with contextlib.aclosing(self._blob_from(host, descriptor, done)) as stream:
                        async for data in stream:
                            done += len(data)
                            yield data
                except HostFailed as error:
                    failure = failures.worse(failure, error)
                    log.info("blob %s after %d bytes: %s", descriptor.digest, done, error)
                    continue
                return
            failure = failure or HostFailed("no configured host may be asked for content", Kind.REFUSED)
            if done - renewed >= _RENEWING_BYTES:
                renewed = done
                patience.renew()
            await self._wait(patience, failure, f"cannot fetch blob {descriptor.digest} of {self._reference}")

    def blame(self, descriptor: Descriptor, error: ShimError) -> ShimError | None:
        """Note that what ``blob`` gave was wrong; return what to raise, or None to try again.

        The hosts that gave it are not asked for it again: each can be wrong once, so this comes to an end.
        """
        givers = self._givers.get(descriptor.digest, set())
        liars = self._liars.setdefault(descriptor.digest, set())
        liars |= givers
        for netloc in givers:
            self._counters.host(netloc).failures[Kind.LIED.name.lower()] += 1
        if givers and any(host.netloc not in liars for host in self._able(hosts.PULL)):
            log.warning("another host is asked for %s: %s", descriptor.digest, error)
            return None
        if isinstance(error, Lied) or not givers:
            return error
        return Lied(f"{error}; it came from {', '.join(sorted(givers))}")

    def how_let_in(self, host: hosts.Host) -> str:
        """Return, for people, whose credentials a host was shown; empty if it wanted none."""
        return self._exchange.how_let_in(host)

    async def _blob_from(
        self, host: hosts.Host, descriptor: Descriptor, offset: int
    ) -> AsyncGenerator[bytes, None]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        what = f"{host.netloc}: blob {descriptor.digest}"
        counters = self._counters.host(host.netloc)
        async with self._exchange.open(host, "GET", f"blobs/{descriptor.digest}", headers) as response:
            skip = offset if response.status_code != 206 else 0  # this host knows no ranges
            self._check_range(response, offset, what)
            self._givers[descriptor.digest].add(host.netloc)
            done = offset
            try:
                async for data in response.aiter_raw():
                    counters.fetched_bytes += len(data)
                    self.fetched_bytes += len(data)
                    if skip:
                        data, skip = data[skip:], max(0, skip - len(data))
                    done += len(data)
                    if done > descriptor.size:
                        raise self._lie(
                            host,
                            descriptor,
                            f"{what} is longer than the {descriptor.size} bytes that its manifest says",
                        )
                    yield data
            except failures.NETWORK_ERRORS as error:
                kind = failures.kind_of(error)
                counters.failures[kind.name.lower()] += 1
                why = failures.say(error, self._connections.timeout())
                raise HostFailed(
                    f"{what}: the transfer broke after {done} of {descriptor.size} bytes: {why}", kind
                ) from error
            if done < descriptor.size:
                text = f"{what} ends after {done} of {descriptor.size} bytes"
                if "Content-Length" in response.headers or skip:
                    raise self._lie(host, descriptor, text)
                raise HostFailed(text, Kind.BROKEN)  # a cut looks like the end where no length was told

    def _check_range(self, response: httpx.Response, offset: int, what: str) -> None:
        told = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code == 206 and told and int(told[1]) != offset:
            raise HostFailed(f"{what}: asked for byte {offset} on, it sends byte {told[1]} on", Kind.REFUSED)

    def _lie(self, host: hosts.Host, descriptor: Descriptor, text: str) -> Lied:
        self._givers[descriptor.digest] = {host.netloc}
        return Lied(text)

    async def _fetch(self, name: str, want: str, declared: str, capability: str, what: str) -> Document:
        patience = Patience(self._attempts)
        failure: HostFailed | None = None
        while True:
            is_retry, failure = failure is not None, None
            for host in self._usable(capability):
                self._counters.host(host.netloc).retries += is_retry
                try:
                    return await self._fetch_from(host, name, want, declared)
                except HostFailed as error:
                    failure = failures.worse(failure, error)
                    log.info("%s: %s", what, error)
            failure = failure or HostFailed(f"no configured host may {capability}", Kind.REFUSED)
            if failure.kind is Kind.UNREACHABLE:
                raise self._give_up(failure, what)  # whoever wants the image asks again
            await self._wait(patience, failure, what)

    async def _fetch_from(self, host: hosts.Host, name: str, want: str, declared: str) -> Document:
        """Return a manifest or index of one host.

        Raises:
            HostFailed: it fails, or lies: then another host may be honest.
        """
        try:
            async with self._exchange.open(
                host, "GET", f"manifests/{name}", {"Accept": manifest.ACCEPT}
            ) as response:
                data = await read_body(response, host.netloc, manifest.MAX_DOCUMENT_BYTES)
                declared = declared or response.headers.get("Content-Type", "").partition(";")[0].strip()
                told = response.headers.get("Docker-Content-Digest", "")
            self.fetched_bytes += len(data)
            self._counters.host(host.netloc).fetched_bytes += len(data)
            where = f"{host.netloc}: manifest {name}"
            found = want or (told if told.partition(":")[0] in ("sha256", "sha512") else digest.of(data))
            digest.verify(data, digest.check(found, where), where)
            kind = manifest.media_type(data, declared, where)
        except (FailedPrecondition, InvalidArgument) as error:
            self._counters.host(host.netloc).failures[Kind.LIED.name.lower()] += 1
            raise HostFailed(str(error), Kind.LIED, error=error) from error
        return Document(Descriptor(kind, found, len(data)), data)

    async def _wait(self, patience: Patience, failure: HostFailed, what: str) -> None:
        """Wait for the next try.

        Raises:
            ShimError: there is none.
        """
        pause_s = patience.wait_s(failure)
        if pause_s is None:
            raise self._give_up(failure, what)
        log.info("%s: %s: next try in %.1f s", what, failure, pause_s)
        await asyncio.sleep(pause_s)

    def _able(self, capability: str) -> list[hosts.Host]:
        return [host for host in self._hosts if capability in host.capabilities]

    def _usable(self, capability: str, wanted: str = "") -> list[hosts.Host]:
        """Return the hosts to ask, in order: those that are down come last, those that lied not at all."""
        liars = self._liars.get(wanted, set())
        able = [host for host in self._able(capability) if host.netloc not in liars]
        return sorted(able, key=lambda host: self._connections.is_down(host.base))

    def _what(self) -> str:
        return f'failed to resolve reference "{self._reference}"'

    def _give_up(self, failure: HostFailed, what: str) -> ShimError:
        if failure.kind is Kind.MISSING:
            return ImageNotFound(str(self._reference), str(failure).removesuffix(": not found"))
        if failure.kind is Kind.LIED and failure.error is not None:
            return failure.error
        if failure.kind is Kind.DENIED:
            return authentication.Unauthorized(f"{what}: {failure}")
        if failure.unavailable:
            return RegistryUnavailable(f"{what}: {failure}")
        return FailedPrecondition(f"{what}: {failure}")
