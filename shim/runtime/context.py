"""What the steps of one plan hand to each other on the way to execve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from shim.errors import Internal
from shim.runtime import wire


@dataclass(slots=True)
class Context:
    """The state of an init child.

    Attributes:
        fds: descriptors given by the supervisor: ``sync``, ``announce``, ``stdin``, ``stdout``, ``stderr``.
        kept: descriptors that an earlier step opened for a later one, by name.
        cgroup_fd: cgroup2 directory that stage 2 is born in.
        tty_master: the master of the terminal, to be sent up with the announcement.
        stage: what is being done, for errors.
    """

    fds: Mapping[str, int]
    kept: dict[str, int] = field(default_factory=dict)
    cgroup_fd: int | None = None
    tty_master: int | None = None
    stage: str = "start"

    def keep(self, name: str, fd: int) -> int:
        """Remember a descriptor under a name that no other step uses."""
        if name in self.kept:
            raise Internal(f"two steps of a plan keep a descriptor named {name!r}")
        self.kept[name] = fd
        return fd

    def take(self, name: str) -> int:
        """Return a kept descriptor; it belongs to the caller from now on."""
        try:
            return self.kept.pop(name)
        except KeyError:
            raise Internal(f"no earlier step of the plan kept a descriptor named {name!r}") from None

    def look(self, name: str) -> int:
        """Return a kept descriptor that stays kept."""
        fd = self.take(name)
        self.kept[name] = fd
        return fd

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Have the daemon end this process if the context takes too long; ``what`` is told as the reason."""
        wire.send(self.fds["sync"], {"type": "doing", "what": what})
        yield
        wire.send(self.fds["sync"], {"type": "doing", "what": ""})

    def warn(self, message: str) -> None:
        """Tell the daemon something that does not stop the start."""
        wire.send(self.fds["sync"], {"type": "warning", "message": message})
