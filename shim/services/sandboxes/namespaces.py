"""The namespaces of a pod: where they are pinned, how they are made, how they go.

A pin is a bind mount of a namespace on an empty file; as long as it is mounted the namespace lives, without
any process in it. The network's pin lies where network plugins and ``ip netns`` look for it, and a symbolic
link beside the other pins names it, so that it is found even when the record of its sandbox cannot be read
any more.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from shim.kernel import mount, proc
from shim.model.sandbox import SandboxSpec
from shim.model.security import NamespaceMode, NamespaceOptions
from shim.store.layout import Layout

_PREFIX: Final = "cri-shim-"


def plan_pins(layout: Layout, netns_dir: str, id_: str, options: NamespaceOptions) -> dict[str, str]:
    """Return where each namespace that the pod has for itself is going to be pinned. Pure.

    A pod on the host network also has the node's host name, so no uts namespace. The pid namespace is the
    pod's only where its containers share it.
    """
    pins = {}
    if options.network is not NamespaceMode.NODE:
        pins["net"] = os.path.join(netns_dir, _PREFIX + id_)
        pins["uts"] = os.path.join(layout.pins(id_), "uts")
    if options.ipc is not NamespaceMode.NODE:
        pins["ipc"] = os.path.join(layout.pins(id_), "ipc")
    if options.pid is NamespaceMode.POD:
        pins["pid"] = os.path.join(layout.pins(id_), "pid")
    if options.userns is not None and options.userns.mode is NamespaceMode.POD:
        pins["user"] = os.path.join(layout.pins(id_), "user")
    return pins


def make_places(layout: Layout, spec: SandboxSpec) -> None:
    """Make the files that namespaces are pinned on, and the place of the pod's shared memory. Blocking."""
    directory = layout.pins(spec.id)
    os.makedirs(directory, 0o700, exist_ok=True)
    for kind, path in spec.pins.items():
        if os.path.dirname(path) != directory:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            os.symlink(path, os.path.join(directory, kind))
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    if "ipc" in spec.pins:
        os.makedirs(layout.shm(spec.id), 0o700, exist_ok=True)


def pin_pid(spec: SandboxSpec, pid: int) -> None:
    """Pin the pid namespace of an init, which may not do it from within a user namespace. Blocking."""
    mount.mount(f"/proc/{pid}/ns/pid", spec.pins["pid"], None, mount.MS_BIND)


def remove_places(layout: Layout, id_: str) -> None:
    """Unpin every namespace of a sandbox and unmount its shared memory. Blocking, idempotent.

    Raises:
        OSError: something cannot be unmounted.
    """
    directory = layout.pins(id_)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            link = os.path.join(directory, name)
            _remove_pin(os.readlink(link) if os.path.islink(link) else link)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)
        os.rmdir(directory)
    shm = layout.shm(id_)
    _unmount(shm)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(shm)


def leftovers(layout: Layout, known: frozenset[str]) -> list[str]:
    """Return the sandbox ids of pins and shared memory that no record knows. Blocking."""
    found: set[str] = set()
    for parent in (os.path.dirname(layout.pins("x")), os.path.dirname(layout.shm("x"))):
        with contextlib.suppress(FileNotFoundError):
            found.update(os.listdir(parent))
    return sorted(found - known)


def pinned_paths() -> frozenset[str]:
    """Return every path at which something is mounted on this node. Blocking."""
    return frozenset(each.mount_point for each in proc.mountinfo())


def _remove_pin(path: str) -> None:
    _unmount(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _unmount(path: str) -> None:
    """Unmount all that is mounted there; nothing is no error."""
    while os.path.ismount(path):
        mount.umount(path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
