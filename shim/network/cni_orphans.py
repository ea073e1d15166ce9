"""Plugins that an earlier daemon started and that still run.

A daemon that is killed leaves the plugins that it has just started. An ADD that came to its end after the DEL
of the next daemon would leak what it makes, so such plugins are killed first. They are known by their
environment, which is theirs from the first instant: a mark with the directory of the daemon's records, and
the CNI variables.

What a plugin has left running on purpose, for a pod that still has its network, has the same environment; it
is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
from collections.abc import Collection
from typing import Final

from shim.network.cni_plugin import MARK

log = logging.getLogger(__name__)

_PATIENCE_MS: Final = 5000


def kill(directory: str, complete: Collection[str], proc: str = "/proc") -> list[int]:
    """Kill plugins that an earlier daemon has left, and wait for their end. Blocking.

    Args:
        directory: of the daemon's records.
        complete: sandboxes that have their network: what their ADD left running stays.
        proc: where processes are listed.

    Returns:
        The pids of those that were killed.
    """
    killed = []
    for name in os.listdir(proc):
        process = f"{proc}/{name}"
        if name.isdecimal() and int(name) != os.getpid() and _is_orphan(process, directory, complete):
            with contextlib.suppress(ProcessLookupError):
                _kill(int(name), process, directory, complete)
                killed.append(int(name))
    if killed:
        log.warning("plugins that an earlier daemon had started are killed: pids %s", killed)
    return killed


def _is_orphan(process: str, directory: str, complete: Collection[str]) -> bool:
    try:
        with open(f"{process}/environ", "rb") as file:
            pairs = (entry.partition(b"=") for entry in file.read().split(b"\0"))
    except OSError:
        return False
    variables = {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
    if variables.get(MARK) != directory:
        return False
    return variables.get("CNI_COMMAND") != "ADD" or variables.get("CNI_CONTAINERID") not in complete


def _kill(pid: int, process: str, directory: str, complete: Collection[str]) -> None:
    fd = os.pidfd_open(pid)
    try:
        if _is_orphan(process, directory, complete):  # looked at again: the pid may have a new owner
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(_PATIENCE_MS)
    finally:
        os.close(fd)
