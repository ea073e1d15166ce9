"""What is kept of a pod's CNI network, on disk.

    <directory>/<sandbox id>.json      what its ADD was called with, its result, and what became of its DEL
    <directory>/pod-cidr.json          the node's ranges for pods, as a kubelet told them

A record is written before the first plugin runs, so that DEL is called with the very same configuration after
a restart, and after the configuration has changed; it goes when every DEL has succeeded. All of this blocks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shim.network.cni_config import Configuration
from shim.store import records

log = logging.getLogger(__name__)

_SUFFIX: Final = ".json"
_CIDRS: Final = "pod-cidr.json"
_ID: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Failure:
    """A DEL that did not succeed and is tried again.

    Attributes:
        since_ns, last_ns: of the first and the last try, wall clock.
        tries: how often it was tried.
        error: of the last try.
    """

    since_ns: int
    last_ns: int
    tries: int
    error: str


@dataclass(frozen=True, slots=True)
class CniRecord:
    """A pod's network.

    Attributes:
        netns: path of its network namespace.
        args: CNI_ARGS.
        result: of the last plugin, in the configuration's version; None while ADD is not through.
        partial: of the last plugin that has answered, while ADD is not through: what a plugin that was
            stopped half-way has made can be removed only by one who knows the addresses.
        ended: whether DEL has begun: nothing but DEL comes after that.
        failure: of DEL.
    """

    sandbox_id: str
    configuration: Configuration
    netns: str
    args: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    ended: bool = False
    failure: Failure | None = None
    partial: Mapping[str, Any] | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class PodCidrs:
    """The node's ranges for pods."""

    cidrs: tuple[str, ...]
    version: int = 1


class Store:
    """The records of a node.

    Args:
        directory: where they lie; it is made if it is missing.
        quarantine: where those go that cannot be read.
    """

    def __init__(self, directory: str, quarantine: str) -> None:
        self.directory = directory
        self._quarantine = quarantine

    def path(self, sandbox_id: str) -> str:
        """Return where a record lies."""
        return os.path.join(self.directory, sandbox_id + _SUFFIX)

    def exists(self, sandbox_id: str) -> bool:
        """Tell whether there is a record."""
        return os.path.exists(self.path(sandbox_id))

    def ids(self) -> list[str]:
        """Return the sandboxes that have a record."""
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []
        stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return [stem for stem in stems if _ID.fullmatch(stem)]

    def load(self, sandbox_id: str) -> CniRecord | None:
        """Return a record; None: there is none.

        Raises:
            UnreadableRecord: what is there is none.
        """
        path = self.path(sandbox_id)
        return records.load(path, CniRecord) if os.path.exists(path) else None

    def put_in_place(self, record: CniRecord) -> None:
        """Write a record in the place of one that cannot be read, which goes to the quarantine."""
        os.makedirs(self._quarantine, 0o700, exist_ok=True)
        path = self.path(record.sandbox_id)
        shutil.copyfile(path, os.path.join(self._quarantine, f"cni-{record.sandbox_id}{_SUFFIX}"))
        self.save(record)

    def load_all(self) -> list[CniRecord]:
        """Return all records that can be read."""
        found = []
        for sandbox_id in self.ids():
            with contextlib.suppress(records.UnreadableRecord):
                found.append(records.load(self.path(sandbox_id), CniRecord))
        return found

    def save(self, record: CniRecord) -> None:
        """Write a record."""
        self._save(self.path(record.sandbox_id), record)

    def drop(self, sandbox_id: str) -> None:
        """Remove a record. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(sandbox_id))

    def save_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """Keep the node's ranges for pods."""
        self._save(os.path.join(self.directory, _CIDRS), PodCidrs(cidrs))

    def load_cidrs(self) -> tuple[str, ...]:
        """Return the node's ranges for pods; empty: nobody has told them."""
        path = os.path.join(self.directory, _CIDRS)
        if not os.path.exists(path):
            return ()
        try:
            return records.load(path, PodCidrs).cidrs
        except records.UnreadableRecord as error:
            log.warning("the pod CIDR is unknown until a kubelet tells it again: %s", error)
            return ()

    def _save(self, path: str, record: object) -> None:
        os.makedirs(self.directory, 0o700, exist_ok=True)
        records.save(path, record)
