"""What /proc says: of a process, of the boot, of the mounts."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of mountinfo (proc_pid_mountinfo(5)).

    Attributes:
        root: the part of the file system that is mounted.
        optional: propagation fields, such as ``shared:7`` or ``master:3``.
        super_options: options of the file system, such as the controllers of a cgroup mount.
    """

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


def start_time(pid: int) -> int:
    """Return field 22 of /proc/PID/stat: when the process began, in clock ticks since boot.

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process.
    """
    return int(_stat_fields(pid)[19])


def exit_status_of_zombie(pid: int) -> int | None:
    """Return the wait status of a process that ended and was not reaped yet (field 52), else None."""
    try:
        fields = _stat_fields(pid)
    except OSError:
        return None
    return int(fields[49]) if fields[0] in ("Z", "X") else None


def cgroups(pid: int) -> str:
    """Return /proc/PID/cgroup (cgroups(7)), empty where there is no such process."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return file.read()
    except OSError:
        return ""


def open_files(pid: int) -> tuple[int, int]:
    """Return how many descriptors a process has, and how many of them are sockets.

    Raises:
        FileNotFoundError, ProcessLookupError: it has ended.
    """
    directory = f"/proc/{pid}/fd"
    names = os.listdir(directory)
    sockets = 0
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets += os.readlink(f"{directory}/{name}").startswith("socket:")
    return len(names), sockets


def boot_id() -> str:
    """Return the id of this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def in_user_namespace() -> bool:
    """Tell whether this process is in a user namespace other than the first (user_namespaces(7))."""
    try:
        with open("/proc/self/uid_map") as file:
            return file.read().split() != ["0", "0", str(2**32 - 1)]
    except FileNotFoundError:  # a kernel without user namespaces
        return False


def mountinfo(path: str = "/proc/self/mountinfo") -> list[MountInfo]:
    """Return the mounts of a mount namespace."""
    with open(path, errors="surrogateescape") as file:
        return [parse_mountinfo_line(line) for line in file]


def parse_mountinfo_line(line: str) -> MountInfo:
    """Parse one line of mountinfo; octal escapes become the characters they stand for."""
    left, _, right = line.rstrip("\n").partition(" - ")
    mount_id, parent_id, device, root, point, options, *optional = left.split(" ")
    fstype, source, super_options = right.split(" ", 2)
    return MountInfo(
        int(mount_id),
        int(parent_id),
        device,
        _unescape(root),
        _unescape(point),
        tuple(options.split(",")),
        tuple(optional),
        fstype,
        _unescape(source),
        tuple(super_options.split(",")),
    )


def parse_stat(text: str) -> list[str]:
    """Return the fields of /proc/PID/stat from the third (state) on; the second may contain anything."""
    return text[text.rindex(")") + 2 :].split()


def _stat_fields(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat", errors="replace") as file:
        return parse_stat(file.read())


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text
