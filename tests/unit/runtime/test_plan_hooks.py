"""Hooks: where in a container's plan they are, and what they get."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from shim.errors import Unimplemented
from shim.model.container import ProcessRef
from shim.model.edits import CREATE_CONTAINER, CREATE_RUNTIME, PRESTART, Edits, Hook
from shim.model.security import ContainerSecurity, NamespaceMode, NamespaceOptions
from shim.runtime.plan import decode_plan, encode_plan
from shim.runtime.plan_container import ContainerPlan, plan_container
from shim.runtime.steps import Step
from shim.runtime.steps_hooks import RunHooks
from shim.runtime.steps_namespaces import JoinNamespaces, JoinProcess, Unshare


def with_hooks(c: ContainerPlan, *moments: str) -> ContainerPlan:
    hooks = tuple(Hook(moment, f"/bin/{moment}", ("x",), ("A=b",), 5) for moment in moments)
    return dataclasses.replace(c, spec=dataclasses.replace(c.spec, edits=Edits(hooks=hooks)))


def stage1(c: ContainerPlan) -> list[Step]:
    return list(plan_container(c).stage1)


def names(steps: list[Step]) -> list[str]:
    return [type(step).__name__ for step in steps]


def security(mode: NamespaceMode) -> ContainerSecurity:
    return ContainerSecurity(namespaces=NamespaceOptions(pid=mode))


def test_without_hooks_there_is_no_step(container: Any) -> None:
    assert {"RunHooks", "HoldHost"}.isdisjoint(names(stage1(container())))


def test_hooks_come_in_the_order_of_their_moments_when_the_root_stands(container: Any) -> None:
    steps = stage1(with_hooks(container(), CREATE_CONTAINER, CREATE_RUNTIME, PRESTART))
    run = next(step for step in steps if isinstance(step, RunHooks))
    assert [hook[0] for hook in run.hooks] == [PRESTART, CREATE_RUNTIME, CREATE_CONTAINER]
    assert run.hooks[0] == (PRESTART, "/bin/prestart", ("x",), ("A=b",), 5)
    assert run.bundle == "/"
    assert json.loads(run.state)["annotations"] == {}
    config = json.loads(run.config)
    assert config["root"] == {"path": "/upper", "readonly": False}
    assert config["process"]["env"] == ["PATH=/bin", "RAW=\udcff"]
    order = names(steps)
    assert order.index("HoldHost") < order.index("JoinNamespaces")
    assert order[-3:] in (["RunHooks", "Unshare", "PivotRoot"], ["AttachVolume", "RunHooks", "PivotRoot"])


def test_hooks_of_the_container_need_nothing_of_the_host(container: Any) -> None:
    assert "HoldHost" not in names(stage1(with_hooks(container(), CREATE_CONTAINER)))


@pytest.mark.parametrize(
    ("mode", "last"),
    [
        (NamespaceMode.CONTAINER, Unshare(("pid",))),
        (NamespaceMode.POD, JoinNamespaces(("pid",))),
        (NamespaceMode.TARGET, JoinProcess(7, 8, ("pid",))),
    ],
)
def test_no_hook_is_born_in_the_containers_pid_namespace(
    container: Any, sandbox: Any, mode: NamespaceMode, last: Step
) -> None:
    within = sandbox(pins={"net": "/pins/net", "pid": "/pins/pid"}, pid=NamespaceMode.POD)
    made = container(within=within, security=security(mode), target=ProcessRef(7, 8, "boot"))
    steps = stage1(with_hooks(made, CREATE_CONTAINER))
    at = names(steps).index("RunHooks")
    assert steps[at + 1] == last
    assert not any("pid" in getattr(step, "kinds", ()) for step in steps[:at])


def test_a_pod_with_a_user_namespace_has_no_hooks(container: Any, sandbox: Any) -> None:
    within = sandbox(pins={"user": "/pins/user"})
    with pytest.raises(Unimplemented, match="user namespace"):
        plan_container(with_hooks(container(within=within), CREATE_CONTAINER))


def test_the_steps_cross_to_the_child(container: Any) -> None:
    plan = plan_container(with_hooks(container(), PRESTART))
    assert decode_plan(encode_plan(plan)) == plan
