"""A set of objects with a spec that never changes and a status that is replaced: on disk, and all in memory.

Reading never touches the disk. Blocking and for one writer at a time; ``get`` and ``list`` may be called from
anywhere, since each change replaces what they look at in one step.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

from shim.errors import AlreadyExists, InvalidArgument, NotFound
from shim.model import ids
from shim.store import records

log = logging.getLogger(__name__)

_SPEC = "spec.json"
_STATUS = "status.json"


class HasId(Protocol):
    """A spec: it knows its id."""

    @property
    def id(self) -> str:
        """64 hex digits."""


Spec = TypeVar("Spec", bound=HasId)
Status = TypeVar("Status")


class ObjectStore(Generic[Spec, Status]):
    """Objects of one kind below one directory, ``<directory>/<id>/spec.json`` and ``status.json``.

    Attributes:
        changes: counts up with every change, once the change can be seen.
    """

    kind = "object"

    def __init__(self, directory: str, quarantine: str, spec: type[Spec], status: type[Status]) -> None:
        self._directory = directory
        self._quarantine = quarantine
        self._spec = spec
        self._status = status
        self._objects: dict[str, tuple[Spec, Status]] = {}
        self._by_name: dict[Hashable, str] = {}
        self.changes = 0

    def name(self, spec: Spec) -> Hashable:
        """Return what at most one object may have."""
        return spec.id

    def load_all(self) -> list[str]:
        """Read everything from disk; return a sentence for each record that was put into quarantine."""
        complaints = []
        for id_ in sorted(os.listdir(self._directory)):
            path = os.path.join(self._directory, id_)
            try:
                spec, status = self._load(path, id_)
            except records.UnreadableRecord as error:
                complaints.append(self._set_aside(id_, path, str(error)))
            else:
                self._index(spec, status)
        return complaints

    def create(self, spec: Spec, status: Status) -> None:
        """Add an object.

        Raises:
            AlreadyExists: its name or id is taken. KernelError: nothing is left of it.
        """
        if not ids.is_id(spec.id):
            raise InvalidArgument(f"{spec.id!r} is no id: 64 hex digits are")
        taken = self._by_name.get(self.name(spec))
        if taken is not None or spec.id in self._objects:
            raise AlreadyExists(f"{self.kind} {self.name(spec)!r} exists with id {taken or spec.id!r}")
        path = os.path.join(self._directory, spec.id)
        os.mkdir(path, 0o700)
        try:
            # The spec comes last: a directory without one is a leftover of a crash, not an object.
            records.save(os.path.join(path, _STATUS), status)
            records.save(os.path.join(path, _SPEC), spec)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        self._index(spec, status)

    def set_status(self, id_: str, status: Status) -> None:
        """Replace a status on disk, then in memory.

        Raises:
            NotFound: no such object. KernelError: the old status holds.
        """
        spec, _ = self.get(id_)
        records.replace(os.path.join(self._directory, id_, _STATUS), status)
        self._objects[id_] = (spec, status)
        self.changes += 1

    def remove(self, id_: str) -> None:
        """Remove an object with its directory. Idempotent."""
        found = self._objects.pop(id_, None)
        if found is not None:
            self._by_name.pop(self.name(found[0]), None)
            self.changes += 1
        if ids.is_id(id_):
            shutil.rmtree(os.path.join(self._directory, id_), ignore_errors=True)

    def get(self, id_: str) -> tuple[Spec, Status]:
        """Return spec and status by whole id.

        Raises:
            NotFound: no such object.
        """
        try:
            return self._objects[id_]
        except KeyError:
            raise NotFound(self.kind, id_) from None

    def resolve_prefix(self, text: str) -> str | None:
        """Return the id that a prefix stands for; None if it is none's, or several's, or empty."""
        if text in self._objects:
            return text
        found = [id_ for id_ in self._objects if id_.startswith(text)] if text else []
        return found[0] if len(found) == 1 else None

    def by_name(self, name: Hashable) -> str | None:
        """Return the id of the object that has a name."""
        return self._by_name.get(name)

    def list(self) -> Iterator[tuple[Spec, Status]]:
        """Return all, the oldest first, as they are at the call."""
        return iter(tuple(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def _load(self, path: str, id_: str) -> tuple[Spec, Status]:
        spec = records.load(os.path.join(path, _SPEC), self._spec)
        if spec.id != id_:
            raise records.UnreadableRecord(f"{path} holds the record of {spec.id!r}")
        return spec, records.load(os.path.join(path, _STATUS), self._status)

    def _index(self, spec: Spec, status: Status) -> None:
        self._objects[spec.id] = (spec, status)
        self.changes += 1
        self._by_name[self.name(spec)] = spec.id

    def _set_aside(self, id_: str, path: str, why: str) -> str:
        target = os.path.join(self._quarantine, f"{self.kind}-{id_}")
        number = 0
        while os.path.lexists(target):
            number += 1
            target = os.path.join(self._quarantine, f"{self.kind}-{id_}.{number}")
        os.rename(path, target)
        log.warning("%s; moved to %s", why, target)
        return f"{why}; moved to {target}"
