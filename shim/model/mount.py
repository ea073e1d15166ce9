"""What a mount is. Some modules make mounts, others mount them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shim.model.image import ImageSpec
from shim.model.security import IdMapping


@dataclass(frozen=True, slots=True)
class Mount:
    """One file system to mount, as data.

    Attributes:
        source: device or name, as in mount(2).
        target: absolute path inside the root file system.
        fstype: ``proc``, ``tmpfs``, …
        flags: MS_* bits of mount(2).
        options: data for the file system, ``key=value`` or ``key``.
    """

    source: str
    target: str
    fstype: str
    flags: int = 0
    options: tuple[str, ...] = ()


class Propagation(enum.IntEnum):
    """How mounts travel between a volume and its source (CRI MountPropagation)."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


@dataclass(frozen=True, slots=True)
class Volume:
    """A host path, or an image, seen inside a container (CRI message Mount)."""

    container_path: str
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: Propagation = Propagation.PRIVATE
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    recursive_read_only: bool = False
    image: ImageSpec | None = None
    image_sub_path: str = ""
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageTree:
    """An image as a volume.

    Attributes:
        lowers: its layers as absolute paths, the topmost first; before them an empty directory that is as the
            image says of ``/``.
        image_ref: what ContainerStatus reports of it: the image's id.
    """

    lowers: tuple[str, ...]
    image_ref: str


@dataclass(frozen=True, slots=True)
class ImageVolume:
    """A volume that the image declares: a directory of the container's own, filled from the image."""

    container_path: str
    directory: str


@dataclass(frozen=True, slots=True)
class Rootfs:
    """The directories of an overlay.

    Attributes:
        lowers: read-only layers as absolute paths, the topmost first (overlayfs order).
        upper: the writable layer's directory.
        work: overlayfs' work directory, on the same file system as ``upper``.
    """

    lowers: tuple[str, ...]
    upper: str
    work: str
