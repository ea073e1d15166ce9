"""Descriptors kept for children, by id and name.

Names that travel with ``fork`` and are used by the child alone: ``plan`` (sealed memfd), ``sync`` (to the
daemon), ``stdin``, ``stdout``, ``stderr`` (the child's ends).
Names that are kept, as long as the child is known:

* ``pidfd``, and ``tty`` (the master) come up from the child;
* ``stdout_read``, ``stderr_read``, ``stdin_write``: the other ends of its pipes;
* ``kill_dir``: directory of its tracking cgroup2;
* ``memory_events`` (v2), with ``slice_events`` where systemd makes cgroups, or ``oom_eventfd`` and
  ``oom_control`` (v1);
* ``carry``: a memfd in which the logger notes unfinished lines (``carry``).

As long as one process holds them, no container sees SIGPIPE or SIGHUP; the daemon, the supervisor and the
logger each have such a store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

CHILD_NAMES: Final = ("plan", "sync", "stdin", "stdout", "stderr")


class FdStore:
    """Owns the descriptors put into it."""

    def __init__(self) -> None:
        self._fds: dict[str, dict[str, int]] = {}

    def put(self, id_: str, fds: Mapping[str, int]) -> None:
        """Keep descriptors. A name that is there already keeps its old one; the new one is closed."""
        kept = self._fds.setdefault(id_, {})
        for name, fd in fds.items():
            if name in kept:
                os.close(fd)
            else:
                kept[name] = fd

    def get(self, id_: str, name: str) -> int | None:
        """Return a descriptor; it stays owned by the store. None if there is none of that name."""
        return self._fds.get(id_, {}).get(name)

    def of(self, id_: str) -> Mapping[str, int]:
        """Return all descriptors of ``id_``, by name."""
        return self._fds.get(id_, {})

    def ids(self) -> Iterator[str]:
        """Return the ids that have descriptors."""
        return iter(self._fds)

    def close(self, id_: str, name: str) -> None:
        """Close one descriptor. Idempotent."""
        fd = self._fds.get(id_, {}).pop(name, None)
        if fd is not None:
            os.close(fd)

    def drop(self, id_: str) -> None:
        """Close all descriptors of ``id_``. Idempotent."""
        close_all(self._fds.pop(id_, {}).values())

    def clear(self) -> None:
        """Close everything."""
        for id_ in list(self._fds):
            self.drop(id_)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def pair(names: Sequence[str], fds: Sequence[int]) -> dict[str, int]:
    """Return the descriptors of a message by name.

    Raises:
        ValueError: their numbers differ or a name comes twice; all of ``fds`` are closed then.
    """
    if len(names) != len(fds) or len(set(names)) != len(names):
        close_all(fds)
        raise ValueError(f"{len(fds)} descriptors came for the names {', '.join(names)}")
    return dict(zip(names, fds, strict=True))
