"""Names of cgroups. Pure.

A path is below the root of each hierarchy, absolute and normal: ``/kubepods/burstable/pod…/<id>`` where this
program makes cgroups by itself, ``/kubepods.slice/…/kubepods-burstable-pod….slice/cri-shim-<id>.scope`` where
systemd makes them.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from shim.errors import InvalidArgument
from shim.model import ids

_SLICE: Final = ".slice"
_SCOPE: Final = re.compile(r"cri-shim-(.*)\.scope")
_UNIT_NAME: Final = re.compile(r"[A-Za-z0-9:_.\\-]+")
_UNIT_LENGTH: Final = 255


def resolve_parent(asked: str, own: str) -> str:
    """Return the parent in force for a request's cgroup_parent; ``own`` where none is given.

    Raises:
        InvalidArgument: it is no place for a cgroup, or speaks the language of the systemd driver.
    """
    if not asked:
        return own
    if asked.endswith(".slice") and "/" not in asked:
        raise InvalidArgument(
            f"cgroup_parent {asked!r} is a systemd slice, but the cgroup driver is cgroupfs: "
            "give the kubelet and this program the same driver"
        )
    return normal("/" + asked)


def normal(path: str) -> str:
    """Return a path with single slashes.

    Raises:
        InvalidArgument: it is the root, leaves it, or holds what no file name can.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or not parts:
        raise InvalidArgument(f"cgroup {path!r} must be an absolute path below the root")
    if ".." in parts:
        raise InvalidArgument(f"cgroup {path!r} must not contain '..'")
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise InvalidArgument(f"cgroup {path!r} has a name longer than 255 bytes")
    if any(ord(character) < 32 for character in path):
        raise InvalidArgument(f"cgroup {path!r} has a control character")
    return "/" + "/".join(parts)


def of(parent: str, id_: str) -> str:
    """Return the cgroup of a container or pod init; this form never changes."""
    return posixpath.join(parent, id_)


def of_exec(path: str, number: int) -> str:
    """Return the tracking cgroup of an exec.

    cAdvisor watches every directory below a pod's, except those that are named like a mount unit.
    """
    return posixpath.join(path, f"exec-{number}.mount")


def ancestors(path: str) -> list[str]:
    """Return the cgroups above one, the outermost first, without the root."""
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: end + 1]) for end in range(len(parts))]


def slice_path(asked: str) -> str:
    """Return the cgroup of the slice that the last part of a cgroup_parent names.

    A slice is inside the one that its name says: ``a-b.slice`` lies in ``a.slice`` (systemd.slice(5)).

    Raises:
        InvalidArgument: that is no slice.
    """
    name = posixpath.basename(normal("/" + asked))
    stem = name.removesuffix(_SLICE)
    parts = stem.split("-")
    if stem == name or not all(parts) or not _UNIT_NAME.fullmatch(stem) or len(name) > _UNIT_LENGTH:
        raise InvalidArgument(
            f"cgroup_parent {asked!r} does not end with the name of a slice, but the driver is systemd: "
            "give the kubelet and this program the same driver"
        )
    return "/" + "/".join("-".join(parts[: end + 1]) + _SLICE for end in range(len(parts)))


def own_slice(path: str) -> str:
    """Return the cgroup of the slice that stands for a path of the configuration: /a/b-c is a-b-c.slice.

    Raises:
        InvalidArgument: no slice can be named so.
    """
    parts = [part for each in normal(path).removesuffix(_SLICE).split("/") for part in each.split("-")]
    return slice_path("-".join(filter(None, parts)) + _SLICE)


def scope_of(parent: str, id_: str) -> str:
    """Return the cgroup of a container or pod init that systemd makes; this form never changes."""
    return posixpath.join(parent, f"cri-shim-{id_}.scope")


def id_of(name: str) -> str | None:
    """Return whose cgroup the last part of a path names, whoever made it; None if it is no container's."""
    match = _SCOPE.fullmatch(name)
    id_ = match[1] if match else name
    return id_ if ids.is_id(id_) else None
