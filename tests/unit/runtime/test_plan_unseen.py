"""What a second stage is left with where somebody may look into it."""

from __future__ import annotations

from typing import Any

from shim.model.cgroup import CgroupJoin
from shim.model.container import ProcessRef
from shim.runtime.plan import decode_plan, encode_plan
from shim.runtime.plan_container import plan_container
from shim.runtime.plan_exec import plan_exec
from shim.runtime.plan_unseen import keep_unseen, mounts_proc
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import OpenNew
from shim.runtime.steps_volumes import AttachVolume


def names(steps: tuple[Step, ...]) -> list[str]:
    return [type(each).__name__ for each in steps]


def test_an_exec_has_done_everything_before_it_is_seen(container: Any) -> None:
    c = container()
    for tasks in (("/tasks",), ()):
        plan = plan_exec(
            c.spec, ProcessRef(7, 8, "b"), ("x",), CgroupJoin(tasks, "/e"), c.privileges, c.limits
        )
        assert not mounts_proc(plan)
        hidden = keep_unseen(plan)
        assert hidden.unseen
        assert names(hidden.stage2) == ["Streams", "Execute"]
        order = names(hidden.stage1)
        assert (
            order.index("JoinProcess")
            < order.index("EnterCgroup2")
            < order.index("Identity")
            == len(order) - 1
        )
        assert sorted([*names(plan.stage1), *names(plan.stage2), "EnterCgroup2"]) == sorted(
            [*order, *names(hidden.stage2)]
        )


def test_a_container_gets_its_proc_from_outside(container: Any) -> None:
    plan = plan_container(container())
    assert mounts_proc(plan)
    hidden = keep_unseen(plan)
    order = names(hidden.stage1)
    opened = next(step for step in hidden.stage1 if isinstance(step, OpenNew) and step.fstype == "proc")
    assert opened.options == ("pidns=/proc/self/ns/pid_for_children",)
    assert hidden.stage1.index(opened) + 1 == order.index("PivotRoot")
    assert AttachVolume(opened.name, "/proc") in hidden.stage1[order.index("PivotRoot") :]
    assert names(hidden.stage2) == ["Streams", "Execute"]
    assert decode_plan(encode_plan(hidden)) == hidden
