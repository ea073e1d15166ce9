"""The plans that make a pod's namespaces and its init."""

from __future__ import annotations

from typing import Any

import pytest

from shim.errors import Unimplemented
from shim.model.cgroup import CgroupJoin
from shim.runtime.plan import decode_plan, encode_plan
from shim.runtime.plan_init import plan_init
from shim.runtime.plan_namespaces import SHM_BYTES, plan_namespaces
from shim.runtime.plan_sysctls import NETWORK_SYSCTLS
from shim.runtime.steps_namespaces import (
    LoopbackUp,
    MountShm,
    PinNamespace,
    SendNetlink,
    SetHostname,
    Unshare,
    WriteSysctl,
)


def test_all_is_made_then_pinned(sandbox: Any) -> None:
    plan = plan_namespaces(sandbox(), "name", "/shm")
    assert plan.stage1 == (
        Unshare(("net", "ipc", "uts")),
        SetHostname("name"),
        *(WriteSysctl(name, value) for name, value in NETWORK_SYSCTLS.items()),
        LoopbackUp(),
        SendNetlink(),
        *(PinNamespace(kind, f"/pins/{kind}") for kind in ("net", "ipc", "uts")),
        MountShm("/shm", SHM_BYTES),
    )
    assert plan.stage2 == ()
    assert decode_plan(encode_plan(plan)) == plan


def test_only_what_the_pod_has_for_itself_is_made(sandbox: Any) -> None:
    plan = plan_namespaces(sandbox(pins={"ipc": "/pins/ipc", "pid": "/pins/pid"}), "name", "/shm")
    assert plan.stage1 == (Unshare(("ipc",)), PinNamespace("ipc", "/pins/ipc"), MountShm("/shm", SHM_BYTES))


def test_a_user_namespace_is_refused(sandbox: Any) -> None:
    with pytest.raises(Unimplemented):
        plan_namespaces(sandbox(pins={"user": "/pins/user"}), "name", "/shm")


def test_an_init_pins_while_it_still_sees_the_host(sandbox: Any) -> None:
    pins = {"net": "/pins/net", "pid": "/pins/pid"}
    plan = plan_init(sandbox(pins=pins), CgroupJoin(("/tasks",), "/v2"), b"\1")
    assert plan.stage1[-1] == Unshare(("pid",))
    assert plan.stage2[0] == PinNamespace("pid", "/pins/pid")
    assert [type(step).__name__ for step in plan.stage2[1:]] == [
        *("Unshare", "DetachFromHost", "EnterEmptyRoot", "EnterV1Cgroups", "ReapForEver"),
    ]
