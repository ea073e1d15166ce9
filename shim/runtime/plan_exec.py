"""The plan of a program that is run in a container beside its own. Pure."""

from __future__ import annotations

import dataclasses
from typing import Final

from shim.model.cgroup import CgroupJoin
from shim.model.container import ContainerSpec, ProcessRef
from shim.runtime.plan import Plan
from shim.runtime.plan_process import (
    Limits,
    plan_directory,
    plan_label_files,
    plan_limits,
    plan_oom_score,
    plan_program,
    plan_surroundings,
)
from shim.runtime.privileges import Privileges
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import OpenTerminalHere
from shim.runtime.steps_namespaces import EnterV1Cgroups, JoinHeld, JoinProcess, OpenCgroups
from shim.runtime.steps_process import AwaitGo, Keyring, Streams
from shim.runtime.steps_users import BecomeRoot

# The mount namespace brings the container's root with it.
_KINDS: Final = ("mnt", "pid", "net", "ipc", "uts")
_TERM: Final = b"TERM=xterm"


def plan_exec(
    spec: ContainerSpec,
    process: ProcessRef,
    argv: tuple[str, ...],
    join: CgroupJoin,
    privileges: Privileges,
    limits: Limits,
    *,
    tty: bool = False,
    hold: bool = False,
) -> Plan:
    """Return the plan: join all namespaces of the container's process, then be as it is.

    Args:
        spec: of the container.
        process: its first process.
        argv: program and arguments.
        join: cgroups of the new process.
        privileges: as the container's.
        limits: as the container's.
        tty: it gets a terminal, and TERM says so.
        hold: it waits for the daemon's go when nothing is left to do but to enter the container's cgroups of
            version 1 (in which it could be frozen, and is counted), to become the user, and execve.
    """
    # Where cgroups are delegated by namespace, as systemd mounts them, nobody inside one gives birth to a
    # process in a cgroup unless its own lies inside too: stage 2 is born first, and joins then.
    late = () if join.v1_tasks else (JoinHeld(("cgroup",)),)
    keep_proc, open_labels = plan_label_files(privileges.labels)
    stage1: list[Step] = [plan_oom_score(spec), *keep_proc, OpenCgroups(join.v1_tasks, join.v2_dir)]
    begin: tuple[Step, ...] = plan_surroundings(spec, limits)
    kinds: tuple[str, ...] = _KINDS
    if spec.userns is not None:
        stage1.append(plan_limits(spec, limits, keyring=False))
        begin, kinds = (BecomeRoot(), Keyring(spec.id), plan_directory(spec)), (*_KINDS, "user")
    stage1.append(JoinProcess(process.pid, process.start_time, kinds, hold=bool(late)))
    terminal: tuple[Step, ...] = ()
    if tty:
        terminal = (OpenTerminalHere(spec.user.uid),)
        env = tuple(entry for entry in spec.env if not entry.startswith(b"TERM="))
        spec = dataclasses.replace(spec, env=(*env, _TERM))
    stage2 = (
        *late,
        *open_labels,
        *begin,
        *terminal,
        Streams(spec.user.uid, spec.user.gid),
        *((AwaitGo(),) if hold else ()),
        EnterV1Cgroups(len(join.v1_tasks)),
        *plan_program(spec, argv, privileges),
    )
    return Plan("exec", tuple(stage1), stage2)
