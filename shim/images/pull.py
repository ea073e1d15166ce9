"""From a reference to an image: resolve, choose the platform, bring the layers in, name it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, ShimError
from shim.images import hosts, manifest, platforms, reference
from shim.images.counters import Counters
from shim.images.exchange import Shared
from shim.images.flights import Flights
from shim.images.ingest import LayerJob
from shim.images.progress import ProgressHub, PullState, Report, Tracker
from shim.images.register import Found, Register
from shim.images.registry import Document, Session
from shim.images.settings import Settings
from shim.images.unpackers import Wanted
from shim.model.image import Auth, Image
from shim.stages import stage
from shim.threads import Pool

log = logging.getLogger(__name__)

_MAX_NESTED: Final = 3


class Puller:
    """Pulls images; calls for the same image with the same credentials share one pull."""

    def __init__(self, settings: Settings, shared: Shared, threads: Pool, register: Register) -> None:
        self._settings = settings
        self._shared = shared
        self._threads = threads
        self._register = register
        self._flights: Flights[Image] = Flights()
        self._hub = ProgressHub()
        self._warned: set[str] = set()  # of what files of the configuration say, once each
        self._under_way: dict[str, tuple[Tracker, Session]] = {}

    @property
    def counters(self) -> Counters:
        """Numbers since the start."""
        return self._shared.counters

    def under_way(self) -> list[PullState]:
        """Return how far each pull is, the oldest first."""
        return [
            tracker.state(self._flights.callers(key), session.fetched_bytes)
            for key, (tracker, session) in self._under_way.items()
        ]

    async def pull(self, text: str, auth: Auth | None, report: Report | None) -> Image:
        """Return the image, fetched as far as it is not here.

        Raises:
            InvalidArgument: the reference or what it leads to is malformed.
            NotFound: no registry has it.
            RegistryUnavailable: a registry did not answer.
            FailedPrecondition: content is not what its digest says, we are not let in, or this node is
                offline and does not have the image.
            ResourceExhausted: the disk is full.
        """
        ref = reference.parse(text).canonical()
        if self._settings.offline:
            return self._find_here(ref)
        key = f"{ref} {_fingerprint(auth)}"
        self.counters.joined += self._flights.is_flying(key)
        with self._hub.listen((key,), report):
            return await self._flights.join(key, functools.partial(self._counted, ref, auth, key))

    def _find_here(self, ref: reference.Reference) -> Image:
        known = self._register.find(str(ref))
        if known is None:
            raise FailedPrecondition(
                f'cannot pull "{ref}": it is not here, and this node is offline by its configuration'
                " (registry.offline = true); bring it in with 'cri-shim image load'"
            )
        return known

    async def _counted(self, ref: reference.Reference, auth: Auth | None, key: str) -> Image:
        """Pull, and keep the numbers."""
        counters = self.counters
        counters.pulls += 1
        session: Session | None = None
        begin = time.monotonic()
        try:
            image = await self._pull(ref, auth, key)
        except asyncio.CancelledError:
            counters.failed["cancelled"] += 1
            raise
        except (ShimError, OSError) as error:
            counters.failed[type(error).__name__] += 1
            raise
        finally:
            _, session = self._under_way.pop(key, (None, None))
        took_s = time.monotonic() - begin
        fetched_bytes = session.fetched_bytes if session is not None else 0
        log.info("pulled %s: image %s, %d bytes in %.1f s", ref, image.id, fetched_bytes, took_s)
        counters.succeeded += 1
        counters.seconds += took_s
        return image

    async def _pull(self, ref: reference.Reference, auth: Auth | None, key: str) -> Image:
        found = await self._threads.run(hosts.look_up, self._settings.config_paths, ref.domain)
        for warning in set(found.warnings) - self._warned:
            log.warning("%s", warning)
            self._warned.add(warning)
        session = Session(self._shared, ref, auth, found.hosts)
        tracker = Tracker(str(ref))
        self._under_way[key] = tracker, session
        if (known := self._register.find(str(ref))) is not None:
            now = await session.head()
            if now is not None and str(ref.with_digest(now.digest)) in known.repo_digests:
                self.counters.unchanged += 1
                return known
        relay = self._hub.relay(key)

        def report(item: str, phase: str, done_bytes: int, total_bytes: int) -> None:
            tracker.hear(item, phase, done_bytes, total_bytes)
            relay(item, phase, done_bytes, total_bytes)

        image = await _Pull(session, ref, self._register, report, tracker).run()
        self.counters.layers_fetched += tracker.fetched_layers()
        return image


@dataclass(slots=True)
class _Pull:
    session: Session
    ref: reference.Reference
    register: Register
    report: Report
    tracker: Tracker

    async def run(self) -> Image:
        with stage("resolve"):
            top = await self.session.resolve()
            documents = {top.descriptor.digest: top.data}
            chosen = await self._choose(top, documents, _MAX_NESTED)
        where = f"manifest {chosen.descriptor.digest} of {self.ref}"
        parts = manifest.parse_manifest(chosen.data, where)
        with stage("configuration"):
            config_data = await self.session.content(parts.config, f"configuration of {self.ref}")
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
        self.tracker.count = len(parts.layers)
        jobs = [
            LayerJob(
                Wanted(layer.digest, layer.size, diff_id),
                functools.partial(self.session.blob, layer),
                layer.digest,
                functools.partial(self.session.blame, layer),
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
