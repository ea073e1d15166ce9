"""Layers on disk looked at, and mended from where they came; see ``unpack.check`` and ``mend``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from shim.errors import NotFound, ShimError
from shim.images.catalog import Catalog
from shim.images.layers import LayerStore
from shim.images.pull import Puller
from shim.images.register import Register
from shim.images.snapshots import Snapshots
from shim.images.unpackers import Unpackers
from shim.model.image import Auth, Image
from shim.threads import Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one layer after it was looked at.

    Attributes:
        chain_id, diff_id: of the layer.
        images: names of the images that have it; ids of those without a name.
        containers: ids of those whose root file system it is a part of.
        problems: what was wrong with it; empty if it is whole.
        mended: it is whole again.
        reason: why it could not be mended.
    """

    chain_id: str
    diff_id: str
    images: tuple[str, ...]
    containers: tuple[str, ...]
    problems: tuple[str, ...]
    mended: bool = False
    reason: str = ""


class Verifier:
    """Checks layers, one after the other, in a process beside the daemon."""

    def __init__(
        self,
        catalog: Catalog,
        layers: LayerStore,
        snapshots: Snapshots,
        unpackers: Unpackers,
        puller: Puller,
        register: Register,
        threads: Pool,
    ) -> None:
        self._catalog = catalog
        self._layers = layers
        self._snapshots = snapshots
        self._unpackers = unpackers
        self._puller = puller
        self._register = register
        self._threads = threads

    async def verify(
        self, images: Sequence[Image] | None, *, repair: bool, auth: Auth | None = None
    ) -> AsyncIterator[Verdict]:
        """Check the layers of images, or all layers, and say what was found of each.

        Args:
            images: whose; None means every layer there is.
            repair: fetch those that are damaged again.
            auth: for the registry.
        """
        wanted = self._layers.ids() if images is None else [id_ for each in images for id_ in each.chain_ids]
        for chain_id in dict.fromkeys(wanted):
            found = await self._check(chain_id)
            if found is None:
                continue
            yield await self._repair(found, auth) if repair and found.problems else found
        await self._threads.run(self._register.collect)

    async def check_all(self, chain_ids: Sequence[str]) -> int:
        """Check layers; return how many are damaged."""
        damaged = 0
        for chain_id in chain_ids:
            found = await self._check(chain_id)
            damaged += bool(found and found.problems)
        # While a layer was looked at it could not be removed, though nobody may need it.
        await self._threads.run(self._register.collect)
        return damaged

    async def _check(self, chain_id: str) -> Verdict | None:
        """Check one layer and mark it if it is damaged; None if it is gone meanwhile."""
        with self._layers.lease((chain_id,)):
            try:
                layer = self._layers.get(chain_id)
                problems = tuple(await self._unpackers.verify(layer.path))
            except (NotFound, FileNotFoundError):
                return None
            if problems:
                await self._threads.run(self._layers.mark_damaged, chain_id, problems)
            elif not self._layers.has(chain_id):
                await self._threads.run(self._layers.mark_whole, chain_id)
        verdict = Verdict(
            chain_id,
            layer.diff_id,
            tuple(name for image in self._users(chain_id) for name in image.repo_tags or (image.id,)),
            self._snapshots.users(chain_id),
            problems,
        )
        if problems:
            log.warning(
                "layer %s of %s is damaged: %s; containers that use it: %s",
                layer.diff_id,
                ", ".join(verdict.images) or "no image",
                problems[0],
                ", ".join(verdict.containers) or "none",
            )
        return verdict

    async def _repair(self, found: Verdict, auth: Auth | None) -> Verdict:
        reasons: list[str] = []
        for image in self._users(found.chain_id):
            for reference in image.repo_digests:
                try:
                    await self._puller.pull(reference, auth, None)
                except ShimError as error:
                    reasons.append(str(error))
                if self._layers.has(found.chain_id):
                    return _with(found, mended=True)
        if not reasons:
            reasons = ["no registry is known that has it"]
        reasons.append("if it came from an archive, load that again")
        return _with(found, reason="; ".join(reasons))

    def _users(self, chain_id: str) -> list[Image]:
        return [image for image in self._catalog.images() if chain_id in image.chain_ids]


def _with(found: Verdict, *, mended: bool = False, reason: str = "") -> Verdict:
    return Verdict(
        found.chain_id, found.diff_id, found.images, found.containers, found.problems, mended, reason
    )
