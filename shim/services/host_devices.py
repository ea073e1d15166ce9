"""Devices of the node that a container gets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from shim.errors import InvalidArgument
from shim.model.container import Device
from shim.runtime.default_files import DEVICES, DeviceNode

# Mounted or linked in every container by itself, or no device of the node.
_SKIPPED: Final = frozenset(("pts", "shm", "fd", "mqueue", "console", "ptmx", ".udev", ".lxc", ".lxd-mounts"))
_DEFAULT: Final = frozenset(node[:4] for node in DEVICES)


def find(devices: Iterable[Device], *, every: bool) -> tuple[DeviceNode, ...]:
    """Return nodes to be made in a container, besides the default ones. Blocking, for a short time.

    Args:
        devices: asked for; a directory stands for all devices below it.
        every: also all devices of the node (a privileged container).

    Raises:
        InvalidArgument: a path is no device, or is missing.
    """
    found: dict[str, DeviceNode] = {}
    if every:
        found.update((node[0], node) for node in _below("/dev", "/dev"))
    for device in devices:
        found.update((node[0], node) for node in asked(device))
    return tuple(node for node in found.values() if node[:4] not in _DEFAULT)


def asked(device: Device) -> Iterator[DeviceNode]:
    """Yield the nodes that one requested device stands for: itself, or all below a directory. Blocking.

    Raises:
        InvalidArgument: the path is no device, or is missing.
    """
    try:
        status = os.stat(device.host_path)
    except OSError as error:
        raise InvalidArgument(f"device {device.host_path!r} cannot be used: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        yield from _below(device.host_path, device.container_path)
        return
    node = _node(device.container_path, status)
    if node is None:
        raise InvalidArgument(f"{device.host_path!r} is not a device")
    yield node


def _below(directory: str, shown: str) -> Iterator[DeviceNode]:
    """Yield every device of a tree; links are left out, as are entries that vanish meanwhile."""
    try:
        with os.scandir(directory) as scan:
            entries = list(scan)
    except OSError:
        return
    for entry in entries:
        path = os.path.join(shown, entry.name)
        if entry.name in _SKIPPED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path, path)
            continue
        try:
            node = _node(path, entry.stat(follow_symlinks=False))
        except OSError:
            continue
        if node is not None:
            yield node


def _node(path: str, status: os.stat_result) -> DeviceNode | None:
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    mode = stat.S_IMODE(status.st_mode)
    number = status.st_rdev
    return path, kind, os.major(number), os.minor(number), mode, status.st_uid, status.st_gid
