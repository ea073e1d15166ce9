"""Names of cgroups. Pure.

A path is below the root of each hierarchy, absolute and normal: ``/kubepods/burstable/pod…/<id>``.
"""

from __future__ import annotations

import posixpath

from shim.errors import InvalidArgument


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
