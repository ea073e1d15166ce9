"""What a runtime's processes cost: processor time and memory, read from /proc.

A runtime's processes are the one that listens on the socket, and those whose arguments name the socket's
directory: containerd's shims and our supervisor and logger do. Programs in the containers do not.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def processes(path: str) -> list[int]:
    """Return the pids of the runtime that listens on a socket; the server is the first."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        server, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    directory = os.path.dirname(path).encode()
    found = [server]
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) not in (server, os.getpid()):
            arguments = _read(f"/proc/{entry}/cmdline")
            if directory in arguments and b"cri-bench" not in arguments and not _is_client(arguments):
                found.append(int(entry))
    return found


def _is_client(arguments: bytes) -> bool:
    return any(name in arguments for name in (b"hack/bench", b"bench_main", b"crictl", b"critest"))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def cpu_ms(path: str) -> float:
    """Return the processor time of a runtime so far, with that of programs it has waited for, in ms."""
    ticks = 0
    for pid in processes(path):
        text = _read(f"/proc/{pid}/stat").decode(errors="replace")
        if text:
            ticks += sum(map(int, text[text.rindex(")") + 2 :].split()[11:15]))
    return ticks * 1000 / _TICKS


def pss_mib(path: str) -> float:
    """Return the memory of a runtime's processes (proportional set size), in MiB.

    The pause processes of a runtime that has them are its own too: children of its shims.
    """
    pids = processes(path)
    pauses = [pid for pid in _children_of(set(pids)) if _read(f"/proc/{pid}/cmdline").startswith(b"/pause")]
    return sum(map(pss_kib, [*pids, *pauses])) / 1024


def _children_of(parents: set[int]) -> list[int]:
    children = []
    for parent in parents:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            children += map(int, _read(str(task)).split())
    return children


def descendants(parents: set[int]) -> set[int]:
    """Return the children of processes, and theirs."""
    found: set[int] = set()
    while fresh := set(_children_of(parents)) - found:
        found |= fresh
        parents = fresh
    return found


def pss_kib(pid: int) -> int:
    """Return the memory of a process (proportional set size), in KiB; 0 if it is gone."""
    for line in _read(f"/proc/{pid}/smaps_rollup").decode().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
