"""The plans that make a pod's namespaces and its init."""

from __future__ import annotations

import dataclasses
from typing import Any

from shim.model.cgroup import CgroupJoin
from shim.model.security import (
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    SandboxSecurity,
    UserNamespace,
)
from shim.runtime.plan import decode_plan, encode_plan
from shim.runtime.plan_init import plan_init
from shim.runtime.plan_namespaces import SHM_BYTES, plan_namespaces, plan_probe
from shim.runtime.plan_sysctls import BUILTIN_SYSCTLS, NETWORK_SYSCTLS
from shim.runtime.steps_labels import KeepProc, OpenLabels, WriteLabels
from shim.runtime.steps_namespaces import (
    LoopbackUp,
    MountShm,
    PinNamespace,
    SendNetlink,
    SetHostname,
    Unshare,
    WriteSysctl,
)
from shim.runtime.steps_reaper import EnterEmptyRoot, ReapForEver
from shim.runtime.steps_users import BecomeRoot, MakeUserNamespace, PinUserNamespace, TryIdMaps


def test_all_is_made_then_pinned(sandbox: Any) -> None:
    plan = plan_namespaces(sandbox(), "name", "/shm")
    assert plan.stage1 == (
        Unshare(("net", "ipc", "uts")),
        SetHostname("name"),
        *(WriteSysctl(name, value) for name, value in NETWORK_SYSCTLS.items()),
        *(WriteSysctl(name, value, optional=True) for name, value in BUILTIN_SYSCTLS.items()),
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


def in_userns(spec: Any) -> Any:
    ids = (IdMapping(70000, 0, 65536),)
    options = NamespaceOptions(userns=UserNamespace(NamespaceMode.POD, ids, ids))
    config = dataclasses.replace(spec.config, security=SandboxSecurity(namespaces=options))
    return dataclasses.replace(spec, config=config, pins={**spec.pins, "user": "/pins/user"})


def test_a_user_namespace_owns_the_others_and_its_root_writes_what_it_must(sandbox: Any) -> None:
    asked = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}
    plan = plan_namespaces(in_userns(sandbox(sysctls=asked)), "name", "/shm")
    ids = ((0, 70000, 65536),)
    assert plan.stage1[0] == MakeUserNamespace(ids, ids, ("net", "ipc", "uts"))
    writers = {step.name: step.uid for step in plan.stage1 if isinstance(step, WriteSysctl)}
    assert writers["kernel.shm_rmid_forced"] == 70000
    assert writers["net.ipv4.ip_forward"] == 0
    assert PinUserNamespace("/pins/user") in plan.stage1
    assert plan.stage1[-1] == MountShm("/shm", SHM_BYTES, "", (70000, 70000))
    assert decode_plan(encode_plan(plan)) == plan


def test_the_init_of_a_user_namespace_is_in_it_and_pins_nothing(sandbox: Any) -> None:
    spec = in_userns(sandbox(pins={"net": "/pins/net", "pid": "/pins/pid"}))
    plan = plan_init(spec, CgroupJoin((), "/cg"), b"")
    kinds = [type(step).__name__ for step in plan.stage1]
    assert kinds.index("JoinNamespaces") < kinds.index("EnterUserNamespace") < kinds.index("Unshare")
    assert plan.stage2[0] == BecomeRoot()
    assert not [step for step in plan.stage2 if isinstance(step, PinNamespace)]


def test_what_a_node_can_do_is_tried_with_all_that_a_pod_needs() -> None:
    made, tried = plan_probe("/images").stage1
    assert isinstance(made, MakeUserNamespace)
    assert tried == TryIdMaps("/images")


def test_an_init_pins_while_it_still_sees_the_host(sandbox: Any) -> None:
    pins = {"net": "/pins/net", "pid": "/pins/pid"}
    plan = plan_init(sandbox(pins=pins), CgroupJoin(("/tasks",), "/v2"), b"\1")
    assert plan.stage1[-1] == Unshare(("pid",))
    assert plan.stage2[0] == PinNamespace("pid", "/pins/pid")
    assert [type(step).__name__ for step in plan.stage2[1:]] == [
        *("Unshare", "DetachFromHost", "EnterEmptyRoot", "EnterV1Cgroups", "ReapForEver"),
    ]


def test_an_init_has_the_labels_of_its_pod(sandbox: Any) -> None:
    pins = {"pid": "/pins/pid"}
    process, files = "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"
    spec = dataclasses.replace(sandbox(pins=pins), process_label=process, mount_label=files)
    plan = plan_init(spec, CgroupJoin((), "/v2"), b"")
    assert plan.stage1[0] == KeepProc()
    assert plan.stage2[0] == OpenLabels((("attr/exec",),))
    assert EnterEmptyRoot(files) in plan.stage2
    assert plan.stage2[-2:] == (WriteLabels((process,)), ReapForEver(""))
