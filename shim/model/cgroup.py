"""Cgroups of a process, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CgroupJoin:
    """What a new process needs to enter its cgroups by itself.

    Attributes:
        v1_tasks: absolute paths of ``tasks`` files; writing ``0`` moves the writer.
        v2_dir: absolute path of a cgroup2 directory for CLONE_INTO_CGROUP, empty where there is none.
    """

    v1_tasks: tuple[str, ...] = ()
    v2_dir: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A cgroup that is ready for a process.

    Attributes:
        path: below the root of each hierarchy.
        join: how the process enters it.
        kill_dir: the cgroup2 directory by which all in it is killed; empty where it cannot be done that way.
    """

    path: str
    join: CgroupJoin
    kill_dir: str = ""
