"""The timeline: what has happened on this node, in memory and in a journal on disk, of bounded size.

Each entry is found by every id and name that it concerns. Writing happens in a thread of its own half a
second after the fact, all entries since then at once, so that it is on no call's way; a disk that fails costs
the entries on it and nothing else, a daemon that is killed its last half second.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from shim.errors import InvalidArgument, ShimError
from shim.images import reference
from shim.model.timeline import Entry, StageTime
from shim.stages import Operation
from shim.store.journal import Journal
from shim.threads import Pool

if TYPE_CHECKING:
    from shim.services.node import Node

log = logging.getLogger(__name__)

MAX_ENTRIES: Final = 4096
MAX_TEXT: Final = 2048  # characters of what one entry tells
WRITTEN_AFTER_S: Final = 0.5
_FOLDED_WITHIN: Final = 64  # entries; further back the same failure is told again

# Calls that are worth telling, with whether they are when they go well.
RECORDED: Final[Mapping[str, bool]] = {
    "RunPodSandbox": True,
    "StopPodSandbox": True,
    "RemovePodSandbox": True,
    "UpdatePodSandboxResources": True,
    "CreateContainer": True,
    "StartContainer": True,
    "StopContainer": True,
    "RemoveContainer": True,
    "UpdateContainerResources": True,
    "ReopenContainerLog": False,
    "ExecSync": False,
    "Exec": False,
    "Attach": False,
    "PortForward": False,
    "PullImage": True,
    "Pull": True,
    "Load": True,
    "RemoveImage": True,
}
# These are asked again and again, also where there is nothing left to do.
_IDEMPOTENT: Final = ("Stop", "Remove")


class Timeline:
    """What has happened.

    Args:
        journal: where it is kept; None: in memory only.
        pool: one thread for the journal.
    """

    def __init__(self, journal: Journal | None = None, pool: Pool | None = None) -> None:
        self._journal, self._pool = journal, pool
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self._unwritten: list[Entry] = []
        self._later: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Take in what an earlier daemon wrote."""
        if self._journal is not None and self._pool is not None:
            for entry in await self._pool.run(self._journal.load):
                self._keep(entry)

    def add(self, entry: Entry) -> None:
        """Add an entry, the newest; one that tells the same as one shortly before is counted with it."""
        if len(entry.text) > MAX_TEXT:
            entry = dataclasses.replace(entry, text=entry.text[: MAX_TEXT - 1] + "…")
        self._keep(entry)
        if self._journal is None:
            return
        self._unwritten.append(entry)
        if self._later is None and (self._writing is None or self._writing.done()):
            self._later = asyncio.get_running_loop().call_later(WRITTEN_AFTER_S, self._begin_to_write)

    def find(self, keys: Iterable[str]) -> list[Entry]:
        """Return the entries that concern any of ``keys``, the oldest first."""
        wanted = frozenset(keys)
        return [entry for entry in self._entries if not wanted.isdisjoint(entry.keys)]

    def matching(self, matches: Callable[[str], bool]) -> set[str]:
        """Return the ids and names for which ``matches`` is true."""
        return {key for entry in self._entries for key in entry.keys if matches(key)}

    async def close(self) -> None:
        """Write down what is not written yet."""
        if self._later is not None:
            self._later.cancel()
            self._begin_to_write()
        if self._writing is not None:
            await asyncio.wait((self._writing,))

    def _keep(self, entry: Entry) -> None:
        for back in range(1, min(len(self._entries), _FOLDED_WITHIN) + 1):
            before = self._entries[-back]
            if not before.ok and _same(before, entry):
                del self._entries[-back]
                self._entries.append(dataclasses.replace(entry, times=before.times + entry.times))
                return
        self._entries.append(entry)

    def _begin_to_write(self) -> None:
        self._later = None
        self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._unwritten and self._journal is not None and self._pool is not None:
            entries, self._unwritten = self._unwritten, []
            try:
                await self._pool.run(self._journal.append, entries)
            except OSError as error:
                log.warning("%d entries of the timeline cannot be written: %s", len(entries), error)


def _same(one: Entry, other: Entry) -> bool:
    return (one.what, one.text, one.keys) == (other.what, other.text, other.keys)


def keys_of_call(node: Node, fields: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ids and names that a call concerns.

    Args:
        node: where.
        fields: what the call names: ``sandbox`` and ``container`` (ids or prefixes), ``image``, ``name`` (of
            what is to be made; of a sandbox with its namespace), ``pod`` (namespace and name).
    """
    keys: list[str] = []
    if "container" in fields:
        keys += container_keys(node, fields["container"])
    if "sandbox" in fields:
        keys += sandbox_keys(node, fields["sandbox"])
        if "name" in fields and len(keys) > 1:
            keys.append(f"{keys[1]}/{fields['name']}")
    elif "name" in fields:
        keys.append(fields["name"])
    if "pod" in fields:
        keys.append(fields["pod"])
    if "image" in fields:
        keys += image_keys(fields["image"])
    return tuple(dict.fromkeys(keys))


def sandbox_keys(node: Node, id_: str) -> list[str]:
    """Return id and name of a sandbox; what was asked for where there is none."""
    view = node.records.find_sandbox(id_)
    if view is None:
        return [id_]
    metadata = view.spec.config.metadata
    return [view.spec.id, f"{metadata.namespace}/{metadata.name}"]


def container_keys(node: Node, id_: str) -> list[str]:
    """Return id and name of a container, and those of its sandbox; what was asked for where there is none."""
    view = node.records.find_container(id_)
    if view is None:
        return [id_]
    pod = sandbox_keys(node, view.spec.sandbox_id)
    return [view.spec.id, *pod, f"{pod[-1]}/{view.spec.config.metadata.name}"]


def image_keys(text: str) -> list[str]:
    """Return what an image is called: as it was asked for, and its whole name."""
    try:
        return [text, str(reference.parse(text).canonical())]
    except (InvalidArgument, ShimError):
        return [text]


def entry_of_call(
    now_ns: int, method: str, keys: tuple[str, ...], operation: Operation, error: BaseException | None
) -> Entry | None:
    """Return what there is to tell of a call that has ended; None: nothing. Pure."""
    if error is None and not RECORDED[method]:
        return None
    if error is None and method.startswith(_IDEMPOTENT) and not operation.stages:
        return None
    return Entry(
        at_ns=now_ns,
        what=method,
        keys=keys,
        text="" if error is None else str(error) or type(error).__name__,
        ok=error is None,
        stage="" if error is None else operation.failed_at(error),
        took_us=(now_ns - operation.began_ns) // 1000,
        stages=tuple(
            StageTime(each.name, each.depth, each.took_ns // 1000 if each.took_ns >= 0 else -1, each.failed)
            for each in operation.stages
        ),
    )
