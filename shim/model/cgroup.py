"""Cgroups of a process, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALL: Final = "a"
ANY: Final = -1


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """What a cgroup's processes may do with some devices. Whatever no rule speaks of is denied.

    Rules are an ordered list: the last one that speaks of all that is wanted of a device decides.

    Attributes:
        allow: or deny.
        type: ``b`` (block), ``c`` (character), or ``a``: every device with every access, whatever the other
            fields say.
        major, minor: -1 stands for every number.
        access: some of ``r``, ``w`` and ``m`` (mknod). A rule that allows must have all that is wanted; one
            that denies, any of it.
    """

    allow: bool
    type: str
    major: int = ANY
    minor: int = ANY
    access: str = "rwm"


ALLOW_ALL: Final = (DeviceRule(True, ALL),)


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
