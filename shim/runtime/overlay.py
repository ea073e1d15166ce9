"""Layers mounted as one tree, for a container's root and for images that are volumes."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from shim.errors import KernelError
from shim.kernel import mount


def mount_layers(
    lowers: Sequence[str],
    place: str,
    upper: str = "",
    work: str = "",
    attributes: int = 0,
    options: Sequence[str] = (),
) -> int:
    """Return a detached mount of layers.

    Runs in: a mount namespace that the host does not see.

    Args:
        lowers: the topmost first.
        place: a directory that nobody else needs in this namespace.
        upper: the writable layer; empty for a tree that is read-only, which takes two layers.
        work: overlayfs' work directory beside it.
        attributes: MOUNT_ATTR_* bits.
        options: more of the file system, ``key=value``.
    """
    above = (f"upperdir={upper}", f"workdir={work}") if upper else ()
    try:
        return _by_descriptor(lowers, (*above, *options), attributes)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
    _by_path(lowers, place, above, options)
    tree = mount.open_tree(mount.AT_FDCWD, place, mount.OPEN_TREE_CLONE)
    if attributes:
        mount.mount_setattr(tree, "", mount.AT_EMPTY_PATH, set_=attributes)
    return tree


def _by_descriptor(lowers: Sequence[str], options: Sequence[str], attributes: int) -> int:
    """Name each layer by itself (``lowerdir+``, Linux 6.8): no limit but overlayfs' own."""
    below = (f"lowerdir+={path}" for path in lowers)
    return mount.new_mount("overlay", "overlay", (*below, *options), attributes)


def _by_path(lowers: Sequence[str], place: str, above: Sequence[str], options: Sequence[str]) -> None:
    """Name all layers in one page of text, relative to where they lie together."""
    base = os.path.commonpath([os.path.dirname(path) for path in lowers])
    os.chdir(base)
    data = ["lowerdir=" + ":".join(os.path.relpath(path, base) for path in lowers), *above]
    data += [f'{key}="{value}"' for key, _, value in (each.partition("=") for each in options)]
    mount.mount("overlay", place, "overlay", 0, ",".join(data))
