"""The plan of a program in a container that runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from shim.model.cgroup import CgroupJoin
from shim.model.container import ProcessRef
from shim.model.security import IdMapping, NamespaceMode, UserNamespace
from shim.runtime.plan_container import plan_container
from shim.runtime.plan_exec import plan_exec
from shim.runtime.plan_process import Limits
from shim.runtime.privileges import Label, Privileges
from shim.runtime.steps_labels import KeepProc, OpenLabels, WriteLabels
from shim.runtime.steps_namespaces import JoinHeld, JoinProcess, OpenCgroups
from shim.runtime.steps_process import Execute, OomScore

REF = ProcessRef(7, 8, "boot")


def test_an_exec_joins_all_and_is_then_as_its_container(container: Any) -> None:
    c = container()
    join = CgroupJoin(("/tasks",), "/exec-1.mount")
    plan = plan_exec(c.spec, REF, ("other",), join, c.privileges, c.limits)
    assert plan.stage1 == (
        OomScore(0),
        OpenCgroups(("/tasks",), "/exec-1.mount"),
        JoinProcess(7, 8, ("mnt", "pid", "net", "ipc", "uts")),
    )
    own = [
        step
        for step in plan_container(c).stage2
        if type(step).__name__ in ("Defaults", "Identity", "Streams")
    ]
    assert [step for step in plan.stage2 if step in own] == own
    assert plan.stage2[-1] == Execute(("other",), ("PATH=/bin", "RAW=\udcff"))


def test_version_2_has_a_cgroup_namespace_to_join(container: Any) -> None:
    plan = plan_exec(container().spec, REF, ("x",), CgroupJoin((), "/exec"), Privileges(0), Limits(()))
    assert plan.stage1[-1] == JoinProcess(7, 8, ("mnt", "pid", "net", "ipc", "uts"), hold=True)
    assert plan.stage2[0] == JoinHeld(("cgroup",))


def test_labels_are_as_the_containers(container: Any) -> None:
    label = Label(("attr/exec",), "exec mine")
    plan = plan_exec(
        container().spec, REF, ("x",), CgroupJoin((), "/e"), Privileges(0, labels=(label,)), Limits(())
    )
    assert plan.stage1[1] == KeepProc()
    assert plan.stage2[1] == OpenLabels((("attr/exec",),))
    assert plan.stage2[-3] == WriteLabels(("exec mine",))


def test_a_terminal_is_opened_by_the_second_stage_and_named_in_the_environment(container: Any) -> None:
    spec = dataclasses.replace(container().spec, env=(b"PATH=/bin", b"TERM=dumb"))
    plan = plan_exec(spec, REF, ("x",), CgroupJoin((), "/exec"), Privileges(0), Limits(()), tty=True)
    names = [type(step).__name__ for step in plan.stage2]
    assert names.index("OpenTerminalHere") == names.index("Streams") - 1
    assert plan.stage2[-1] == Execute(("x",), ("PATH=/bin", "TERM=xterm"))
    assert not any("Terminal" in type(step).__name__ for step in plan.stage1)


def test_an_exec_in_a_user_namespace_gets_its_limits_from_the_node_and_becomes_root_there(
    container: Any,
) -> None:
    ids = (IdMapping(70000, 0, 65536),)
    c = container(resolved={"userns": UserNamespace(NamespaceMode.POD, ids, ids)})
    plan = plan_exec(c.spec, REF, ("x",), CgroupJoin((), "/exec"), Privileges(0), Limits(()))
    names = [type(step).__name__ for step in plan.stage1]
    assert names == ["OomScore", "OpenCgroups", "Defaults", "JoinProcess"]
    assert plan.stage1[-1] == JoinProcess(7, 8, ("mnt", "pid", "net", "ipc", "uts", "user"), hold=True)
    names = [type(step).__name__ for step in plan.stage2]
    assert names[:4] == ["JoinHeld", "BecomeRoot", "Keyring", "EnterDirectory"]


def test_one_that_is_held_enters_nothing_of_the_containers_before_the_go(container: Any) -> None:
    join = CgroupJoin(("/cpu/c/tasks",), "/exec")
    at_once = plan_exec(container().spec, REF, ("x",), join, Privileges(0), Limits(()))
    held = plan_exec(container().spec, REF, ("x",), join, Privileges(0), Limits(()), hold=True)
    assert held.stage1 == at_once.stage1
    names = [type(step).__name__ for step in held.stage2]
    assert names[names.index("AwaitGo") :] == ["AwaitGo", "EnterV1Cgroups", "Identity", "Execute"]
    assert tuple(step for step in held.stage2 if type(step).__name__ != "AwaitGo") == at_once.stage2
