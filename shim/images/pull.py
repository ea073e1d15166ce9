"""From a reference to an image: resolve, choose the platform, bring the layers in, name it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.images import digest, hosts, manifest, platforms, reference
from shim.images.connections import Connections
from shim.images.flights import Flights
from shim.images.ingest import LayerJob
from shim.images.progress import ProgressHub, Report
from shim.images.register import Found, Register
from shim.images.registry import Document, Session
from shim.images.settings import Settings
from shim.images.unpackers import Wanted
from shim.model.image import Auth, Descriptor, Image
from shim.stages import stage
from shim.threads import Pool

_MAX_NESTED: Final = 3


class Puller:
    """Pulls images; calls for the same image with the same credentials share one pull."""

    def __init__(
        self, settings: Settings, connections: Connections, threads: Pool, register: Register
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._threads = threads
        self._register = register
        self._flights: Flights[Image] = Flights()
        self._hub = ProgressHub()

    async def pull(self, text: str, auth: Auth | None, report: Report | None) -> Image:
        """Return the image, fetched as far as it is not here.

        Raises:
            InvalidArgument: the reference or what it leads to is malformed.
            NotFound: no registry has it.
            RegistryUnavailable: a registry did not answer.
            FailedPrecondition: content is not what its digest says, or we are not let in.
            ResourceExhausted: the disk is full.
        """
        ref = reference.parse(text).canonical()
        key = f"{ref} {_fingerprint(auth)}"
        with self._hub.listen((key,), report):
            return await self._flights.join(
                key, functools.partial(self._pull, ref, auth, self._hub.relay(key))
            )

    async def _pull(self, ref: reference.Reference, auth: Auth | None, report: Report) -> Image:
        servers = await self._threads.run(hosts.load, self._settings.config_paths, ref.domain)
        session = Session(self._connections, ref, auth, servers)
        if not ref.digest and (known := self._register.by_tag(str(ref))) is not None:
            now = await session.head()
            if now is not None and str(ref.with_digest(now.digest)) in known.repo_digests:
                return known
        return await _Pull(session, ref, self._register, report).run()


@dataclass(slots=True)
class _Pull:
    session: Session
    ref: reference.Reference
    register: Register
    report: Report

    async def run(self) -> Image:
        with stage("resolve"):
            top = await self.session.resolve()
            documents = {top.descriptor.digest: top.data}
            chosen = await self._choose(top, documents, _MAX_NESTED)
        where = f"manifest {chosen.descriptor.digest} of {self.ref}"
        parts = manifest.parse_manifest(chosen.data, where)
        with stage("configuration"):
            config_data = await self._small(parts.config)
        documents[parts.config.digest] = config_data
        config = manifest.parse_config(config_data, f"configuration {parts.config.digest} of {self.ref}")
        self._check(config, parts, where)
        found = Found(
            id=parts.config.digest,
            manifest=chosen.descriptor.digest,
            layers=parts.layers,
            config=config,
            size_bytes=parts.config.size + len(chosen.data) + sum(layer.size for layer in parts.layers),
            documents=documents,
            repo_digest=str(self.ref.with_digest(top.descriptor.digest)),
        )
        jobs = [
            LayerJob(
                Wanted(layer.digest, layer.size, diff_id),
                functools.partial(self.session.blob, layer),
                layer.digest,
            )
            for layer, diff_id in zip(parts.layers, config.diff_ids, strict=True)
        ]
        with stage("layers"):
            return await self.register.add(found, jobs, "" if self.ref.digest else str(self.ref), self.report)

    async def _choose(self, top: Document, documents: dict[str, bytes], depth: int) -> Document:
        """Return the manifest for this machine, going down through indexes."""
        if top.descriptor.media_type not in manifest.INDEXES:
            return top
        where = f"index {top.descriptor.digest} of {self.ref}"
        if not depth:
            raise InvalidArgument(f"{where}: indexes are nested too deep")
        want = platforms.host()
        for entry in platforms.choose(manifest.parse_index(top.data, where), want):
            with contextlib.suppress(NotFound):  # pushed for some platforms only: the next best may be there
                document = await self.session.document(entry)
                documents[document.descriptor.digest] = document.data
                return await self._choose(document, documents, depth - 1)
        raise _no_platform(self.ref, where)

    async def _small(self, descriptor: Descriptor) -> bytes:
        data = bytearray()
        async with contextlib.aclosing(self.session.blob(descriptor)) as stream:
            async for piece in stream:
                data += piece
        digest.verify(bytes(data), descriptor.digest, f"configuration of {self.ref}")
        return bytes(data)

    def _check(self, config: manifest.Config, parts: manifest.Manifest, where: str) -> None:
        if len(config.diff_ids) != len(parts.layers):
            raise InvalidArgument(
                f"{where}: {len(parts.layers)} layers, but the configuration names {len(config.diff_ids)}"
            )
        told = config.platform.os and config.platform.architecture
        if told and platforms.rank(config.platform, platforms.host()) is None:
            raise _no_platform(self.ref, where)


def _no_platform(ref: reference.Reference, where: str) -> FailedPrecondition:
    want = platforms.host()
    return FailedPrecondition(
        f'failed to pull image "{ref}": no match for platform {want.os}/{want.architecture} in {where}'
    )


def _fingerprint(auth: Auth | None) -> str:
    """Return a text that is equal for equal credentials and tells nothing about them."""
    if auth is None:
        return ""
    fields = (
        auth.username,
        auth.password,
        auth.auth,
        auth.server_address,
        auth.identity_token,
        auth.registry_token,
    )
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()
