"""What the kernel denied to containers: its audit records of seccomp and AppArmor, into the timeline.

The kernel writes them to its log where no audit daemon takes them. A record names a process by its pid on the
node. Its cgroup names the container as long as the process is there; of one that is gone only a container's
first process is known, so what a short-lived child of it was denied may be told to nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from dataclasses import dataclass
from typing import Final

from shim.errors import ShimError
from shim.kernel import kmsg, proc, seccomp
from shim.model.timeline import Entry
from shim.services.node import Node
from shim.services.timeline import container_keys

log = logging.getLogger(__name__)

_FIELD: Final = re.compile(r'(\w+)=("[^"]*"|\S+)')
_SECCOMP: Final = "1326"
# The kernel tells line by line of each link that comes or goes: they are read together.
_PAUSE_S: Final = 0.01
# For so long after its end a pid still means the container's first process: later it may be another's.
_REMEMBERED_NS: Final = 5_000_000_000
_ID: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Denial:
    """One record.

    Attributes:
        pid: of the process, as the node sees it.
        text: what was denied, for a person.
    """

    pid: int
    text: str


def parse(text: str) -> Denial | None:
    """Return the denial that a record of the kernel's log tells of; None: it tells of none.

    Records are as the kernel's audit.c writes them: ``audit: type=1326 audit(…): … pid=7 comm="sh" …``.
    """
    if "audit" not in text:
        return None
    fields = {key: value.strip('"') for key, value in _FIELD.findall(text)}
    if not fields.get("pid", "").isdecimal():
        return None
    pid, command = int(fields["pid"]), fields.get("comm", "?")
    if fields.get("type") == _SECCOMP:
        try:
            call = seccomp.name_of(int(fields["arch"], 16), int(fields["syscall"]))
        except (KeyError, ValueError, ShimError):
            call = fields.get("syscall", "?")
        return Denial(pid, f"its seccomp profile does not allow {command!r} the system call {call}")
    if fields.get("apparmor") == "DENIED":
        wanted = f"{fields.get('operation', '?')} {fields.get('name', '')}".strip()
        return Denial(
            pid, f"its AppArmor profile {fields.get('profile', '?')!r} denies {command!r}: {wanted}"
        )
    return None


class Watcher:
    """Follows the kernel's log for a node. Where there is none, nothing is told."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._fd = -1
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to follow."""
        try:
            self._fd = kmsg.follow()
        except OSError as error:
            log.info("denials of seccomp and AppArmor are not told: %s", error)
            return
        self._follow()

    def close(self) -> None:
        """Follow no more. Idempotent."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _follow(self) -> None:
        self._paused = None
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            texts = kmsg.read(self._fd)
        except OSError as error:
            log.warning("denials are not told any more: %s", error)
            self.close()
            return
        denials = [denial for text in texts if (denial := parse(text)) is not None]
        for denial in denials:
            self._tell(denial)
        if not denials:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            self._paused = loop.call_later(_PAUSE_S, self._follow)

    def _tell(self, denial: Denial) -> None:
        id_ = self._container_of(denial.pid)
        if id_ is not None:
            keys = tuple(container_keys(self._node, id_))
            self._node.timeline.add(Entry(self._node.now_ns(), "denial", keys, denial.text, ok=False))

    def _container_of(self, pid: int) -> str | None:
        records = self._node.records
        for id_ in _ID.findall(proc.cgroups(pid)):
            if records.has_container(id_):
                return str(id_)
        # It is gone, or a zombie, which cgroup v1 has in its root: a container's first process is recorded.
        since_ns = self._node.now_ns() - _REMEMBERED_NS
        for view in records.containers():
            process, finished_ns = view.status.process, view.status.finished_at_ns
            if process is not None and process.pid == pid and not 0 < finished_ns < since_ns:
                return view.spec.id
        return None
