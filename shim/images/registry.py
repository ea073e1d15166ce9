"""The registry client: from a reference to documents and streams of blobs.

A ``Session`` is for one reference and one caller's credentials. Hosts are asked in the configured order; what
each said is told when none could help.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, RegistryUnavailable, ShimError
from shim.images import auth as authentication
from shim.images import digest, hosts, manifest
from shim.images.connections import Connections
from shim.images.exchange import Exchange, HostFailed, read_body, say
from shim.images.http import httpx
from shim.images.reference import Reference
from shim.model.image import Auth, Descriptor

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 4
_BACKOFF_S: Final = 0.25
_MAX_BACKOFF_S: Final = 10.0


class ImageNotFound(NotFound):
    """No host has the image; the message is the one that users of containerd know."""

    def __init__(self, reference: str) -> None:
        super().__init__("image", reference)
        self.args = (f'failed to resolve reference "{reference}": {reference}: not found',)


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index, verified. ``descriptor.media_type`` is what it really is."""

    descriptor: Descriptor
    data: bytes


class Session:
    """Talks to the hosts of one reference with one caller's credentials.

    Args:
        connections: shared by all sessions.
        reference: the image.
        auth: the caller's credentials, None for anonymous.
        hosts_: the hosts to ask, in order.
    """

    def __init__(
        self,
        connections: Connections,
        reference: Reference,
        auth: Auth | None,
        hosts_: tuple[hosts.Host, ...],
    ) -> None:
        self._connections = connections
        self._reference = reference
        self._hosts = hosts_
        self._exchange = Exchange(connections, reference.path, auth)

    async def head(self) -> Descriptor | None:
        """Return what the tag means now without fetching it; None where a registry does not tell."""
        for host in self._usable(hosts.RESOLVE):
            with contextlib.suppress(HostFailed, FailedPrecondition, InvalidArgument):
                async with self._exchange.open(
                    host, "HEAD", f"manifests/{self._reference.object}"
                ) as response:
                    found = digest.check(response.headers.get("Docker-Content-Digest"), host.netloc)
                    return Descriptor(response.headers.get("Content-Type", ""), found, 0)
        return None

    async def resolve(self) -> Document:
        """Fetch what the reference names.

        Raises:
            ImageNotFound: no host has it.
            RegistryUnavailable: hosts that might have it did not answer.
            Unauthorized: they do not let us in.
        """
        want = self._reference.digest
        try:
            return await self._document(
                self._reference.object, want, "", hosts.RESOLVE if not want else hosts.PULL
            )
        except HostFailed as failure:
            raise self._give_up(failure, f'failed to resolve reference "{self._reference}"') from None

    async def document(self, descriptor: Descriptor) -> Document:
        """Fetch a manifest or index by digest."""
        try:
            return await self._document(
                descriptor.digest, descriptor.digest, descriptor.media_type, hosts.PULL
            )
        except HostFailed as failure:
            raise self._give_up(failure, f"cannot fetch manifest {descriptor.digest}") from None

    async def blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a blob, as many as the descriptor says; they are not verified here.

        A broken transfer goes on where it broke, if need be from the next host.
        """
        done = 0
        failure: HostFailed | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(_BACKOFF_S * 4 ** (attempt - 1), _MAX_BACKOFF_S))
            for host in self._usable(hosts.PULL):
                try:
                    async with contextlib.aclosing(self._blob_from(host, descriptor, done)) as stream:
                        async for data in stream:
                            done += len(data)
                            yield data
                except HostFailed as error:
                    failure = _worse(failure, error)
                    log.info("blob %s after %d bytes: %s", descriptor.digest, done, error)
                    continue
                return
            if failure is None or not failure.unavailable:
                break
        failure = failure or HostFailed("no configured host may be asked for content")
        raise self._give_up(failure, f"cannot fetch blob {descriptor.digest}")

    async def _blob_from(
        self, host: hosts.Host, descriptor: Descriptor, offset: int
    ) -> AsyncGenerator[bytes, None]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._exchange.open(host, "GET", f"blobs/{descriptor.digest}", headers) as response:
            skip = offset if response.status_code != 206 else 0
            done = offset
            try:
                async for data in response.aiter_raw():
                    if skip:
                        data, skip = data[skip:], max(0, skip - len(data))  # this host knows no ranges
                    done += len(data)
                    if done > descriptor.size:
                        raise FailedPrecondition(
                            f"{host.netloc}: blob {descriptor.digest} is longer than the {descriptor.size} "
                            "bytes that its manifest says"
                        )
                    yield data
            except httpx.HTTPError as error:
                raise HostFailed(
                    f"{host.netloc}: the transfer of blob {descriptor.digest} broke after {done} of "
                    f"{descriptor.size} bytes: {say(error)}",
                    unavailable=True,
                ) from error
            if done < descriptor.size:
                raise FailedPrecondition(
                    f"{host.netloc}: blob {descriptor.digest} ends after {done} of {descriptor.size} bytes"
                )

    async def _document(self, name: str, want: str, declared: str, capability: str) -> Document:
        failure: HostFailed | None = None
        for host in self._usable(capability):
            try:
                async with self._exchange.open(
                    host, "GET", f"manifests/{name}", {"Accept": manifest.ACCEPT}
                ) as response:
                    data = await read_body(response, host.netloc, manifest.MAX_DOCUMENT_BYTES)
                    declared = declared or response.headers.get("Content-Type", "").partition(";")[0].strip()
                    told = response.headers.get("Docker-Content-Digest", "")
            except HostFailed as error:
                failure = _worse(failure, error)
                continue
            where = f"{host.netloc}: manifest {name}"
            algorithm = (want or told or "sha256:").partition(":")[0]
            found = want or told or digest.of(data)
            if algorithm not in ("sha256", "sha512"):
                found = digest.of(data)
            digest.verify(data, found, where)
            kind = manifest.media_type(data, declared, where)
            return Document(Descriptor(kind, found, len(data)), data)
        raise failure or HostFailed(f"no configured host may {capability}")

    def _usable(self, capability: str) -> list[hosts.Host]:
        able = [host for host in self._hosts if capability in host.capabilities]
        up = [host for host in able if not self._connections.is_down(host.netloc)]
        return up or able

    def _give_up(self, failure: HostFailed, what: str) -> ShimError:
        if failure.missing:
            return ImageNotFound(str(self._reference))
        if failure.denied:
            return authentication.Unauthorized(f"{what}: {failure}")
        if failure.unavailable:
            return RegistryUnavailable(f"{what}: {failure}")
        return FailedPrecondition(f"{what}: {failure}")


def _worse(known: HostFailed | None, new: HostFailed) -> HostFailed:
    """Return what the caller should hear: silence before refusal before absence; the first of a kind."""

    def weight(failure: HostFailed) -> int:
        return 3 if failure.unavailable else 2 if failure.denied else 0 if failure.missing else 1

    return new if known is None or weight(new) > weight(known) else known
