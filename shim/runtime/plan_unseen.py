"""A plan whose second stage has nothing that anybody could want. Pure.

The second stage is seen in the container's PID namespace from its first instruction, and in the usual order
it is the host's root until its last. That it is not dumpable keeps others out, but not who has SYS_PTRACE,
which ``kubectl debug`` gives: he would make it run what he likes (the class of CVE-2016-9962). So where a
process of the PID namespace may have that, the first stage, which nobody inside sees, does all but the last
steps: it enters the cgroups, mounts, takes the limits and becomes the user, and only then gives birth.

This costs what the usual order is there to save: a process moves between cgroups (8 ms), and is paid for by
the container while it does its work. A /proc of the namespace is mounted from outside: that is Linux 6.17's.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from shim.runtime.plan import Plan
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import MountNew, OpenNew, PivotRoot
from shim.runtime.steps_namespaces import EnterCgroup2
from shim.runtime.steps_process import Execute, Streams
from shim.runtime.steps_volumes import AttachVolume

# What only the process itself can do: lead a session, become a program.
_ITS_OWN: Final = (Streams, Execute)
_PROC: Final = "proc of the namespace"
_OF_THE_CHILD: Final = "pidns=/proc/self/ns/pid_for_children"


def mounts_proc(plan: Plan) -> bool:
    """Return whether the second stage mounts the /proc of its PID namespace."""
    return any(_is_proc(step) for step in plan.stage2)


def keep_unseen(plan: Plan) -> Plan:
    """Return the plan with everything in the first stage that can be done there."""
    stage1, moved = list(plan.stage1), [step for step in plan.stage2 if not isinstance(step, _ITS_OWN)]
    for index, step in enumerate(moved):
        if isinstance(step, MountNew) and _is_proc(step):
            opened = OpenNew(_PROC, step.fstype, step.attributes, (*step.options, _OF_THE_CHILD))
            stage1.insert(_before_pivot(stage1), opened)  # as long as the node's /proc can be seen
            moved[index] = AttachVolume(_PROC, step.target)
    last = tuple(step for step in plan.stage2 if isinstance(step, _ITS_OWN))
    return dataclasses.replace(plan, stage1=(*stage1, EnterCgroup2(), *moved), stage2=last, unseen=True)


def _is_proc(step: Step) -> bool:
    return isinstance(step, MountNew) and step.fstype == "proc"


def _before_pivot(steps: list[Step]) -> int:
    return next(index for index, step in enumerate(steps) if isinstance(step, PivotRoot))
