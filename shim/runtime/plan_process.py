"""The end of every plan that runs a program: from limits to execve. Pure.

A container's own process and what is executed in it later get exactly the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from shim.model.container import ContainerSpec
from shim.runtime.privileges import Label, Privileges
from shim.runtime.steps import Step
from shim.runtime.steps_labels import KeepProc, OpenLabels, WriteLabels
from shim.runtime.steps_process import Defaults, EnterDirectory, Execute, Identity, OomScore


@dataclass(frozen=True, slots=True)
class Limits:
    """What the node's configuration says of every program.

    Attributes:
        rlimits: of ``runtime.rlimits.plan_rlimits``.
    """

    rlimits: tuple[tuple[int, int, int], ...]


def plan_surroundings(spec: ContainerSpec, limits: Limits) -> tuple[Step, ...]:
    """Return what a program begins with: limits, priorities, keyring, directory."""
    return plan_limits(spec, limits, keyring=True), plan_directory(spec)


def plan_limits(spec: ContainerSpec, limits: Limits, *, keyring: bool) -> Step:
    """Return the step that gives a program its limits; only the host's root may raise some of them."""
    return Defaults(limits.rlimits, spec.id if keyring else "")


def plan_oom_score(spec: ContainerSpec) -> Step:
    """Return what stage 1 begins with, as long as /proc is the node's."""
    return OomScore(spec.config.resources.oom_score_adj)


def plan_directory(spec: ContainerSpec) -> Step:
    """Return the step that enters the working directory."""
    return EnterDirectory(spec.cwd)


def plan_program(spec: ContainerSpec, argv: tuple[str, ...], privileges: Privileges) -> tuple[Step, ...]:
    """Return the last steps: labels, become the user, become the program."""
    user = spec.user
    identity = Identity(
        user.uid,
        user.gid,
        user.groups,
        privileges.capabilities,
        privileges.ambient,
        privileges.no_new_privs,
        privileges.seccomp.hex(),
        privileges.seccomp_flags,
    )
    program = Execute(argv, tuple(map(os.fsdecode, spec.env)))
    return (*plan_become(privileges.labels), identity, program)


def plan_become(labels: tuple[Label, ...]) -> tuple[Step, ...]:
    """Return what asks for labels at the next execve: nothing where there are none."""
    return (WriteLabels(tuple(label.text for label in labels)),) if labels else ()


def plan_label_files(labels: tuple[Label, ...]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return what both stages do before all else for labels: nothing where there are none."""
    candidates = tuple(label.candidates for label in labels)
    return ((KeepProc(),), (OpenLabels(candidates),)) if candidates else ((), ())
