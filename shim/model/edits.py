"""What a container gets besides what was asked of it by fields: the edits of CDI devices, resolved."""

from __future__ import annotations

from dataclasses import dataclass, field

from shim.model.mount import Volume

# Hooks that are run, in this order (OCI runtime specification, "POSIX-platform Hooks").
PRESTART = "prestart"
CREATE_RUNTIME = "createRuntime"
CREATE_CONTAINER = "createContainer"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node to be made in a container.

    Attributes:
        path: in the container.
        type: ``b``, ``c``, or ``p`` (a FIFO, which has no numbers).
        mode: permission bits.
        access: what the container may do with it, some of ``rwm``; empty for nothing.
    """

    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    access: str


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the node that is run once when a container starts, and whose failure ends the start.

    Attributes:
        moment: PRESTART, CREATE_RUNTIME or CREATE_CONTAINER.
        path: of the node.
        args: with the name of the program as the first.
        timeout_s: 0 means none.
    """

    moment: str
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...] = field(repr=False)
    timeout_s: int = 0


@dataclass(frozen=True, slots=True)
class Edits:
    """All of a container's. ``volumes`` take the place of others that have the same container path."""

    devices: tuple[DeviceNode, ...] = ()
    volumes: tuple[Volume, ...] = ()
    hooks: tuple[Hook, ...] = ()
