"""The plan of a container in a user namespace: who does what."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import pytest

from shim.errors import InvalidArgument
from shim.kernel import mount
from shim.model.container import ProcessRef
from shim.model.edits import DeviceNode, Edits
from shim.model.image import ImageSpec
from shim.model.mount import ImageTree, ImageVolume, Propagation, Volume
from shim.model.security import (
    ContainerSecurity,
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    UserNamespace,
)
from shim.runtime.plan import Plan, decode_plan, encode_plan
from shim.runtime.plan_container import plan_container
from shim.runtime.steps import Step, decode_step
from shim.runtime.steps_images import CopyUp
from shim.runtime.steps_mounts import MakeDevices, MountNew, MountOverlay, OpenNew, ProtectPaths
from shim.runtime.steps_namespaces import JoinNamespaces, Unshare
from shim.runtime.steps_users import (
    USER,
    InUserNamespace,
    MakeIdMap,
    MapLayers,
    OpenProcessNamespaces,
)
from shim.runtime.steps_volumes import AttachVolume, OpenVolume

S = TypeVar("S", bound=Step)
IDS = (IdMapping(70000, 0, 65536),)
PINS = {"net": "/pins/net", "ipc": "/pins/ipc", "uts": "/pins/uts", "user": "/pins/user"}


@pytest.fixture
def inside(sandbox: Any, container: Any) -> Any:
    """Return a function that plans a container of a pod with a user namespace."""

    def make(ids: Any = IDS, pins: Any = PINS, pid: Any = NamespaceMode.CONTAINER, **more: Any) -> Plan:
        userns = UserNamespace(NamespaceMode.POD, ids, ids)
        resolved = {"userns": userns, **more.pop("resolved", {})}
        devices = more.pop("devices", ())
        c = container(within=sandbox(pid=pid, pins=pins), resolved=resolved, **more)
        plan = plan_container(dataclasses.replace(c, devices=devices))
        assert decode_plan(encode_plan(plan)) == plan
        return plan

    return make


def nested(plan: Plan) -> list[Step]:
    (step,) = (each for each in plan.stage1 if isinstance(each, InUserNamespace))
    return [decode_step(list(each)) for each in step.steps]


def of(steps: Any, kind: type[S]) -> list[S]:
    return [each for each in steps if isinstance(each, kind)]


def names(steps: Any) -> list[str]:
    return [type(each).__name__ for each in steps]


def test_the_nodes_root_opens_the_pods_root_attaches_and_the_cloner_is_neither(inside: Any) -> None:
    plan = inside()
    order = names(plan.stage1)
    for earlier, later in (
        ("OpenNamespaces", "OpenVolume"),
        ("OpenVolume", "JoinNamespaces"),
        ("MapLayers", "MountOverlay"),
        ("MountOverlay", "InUserNamespace"),
        ("InUserNamespace", "Defaults"),
        ("Defaults", "EnterUserNamespace"),
    ):
        assert order.index(earlier) < order.index(later), (earlier, later)
    assert plan.stage1[-2:] == (JoinNamespaces(("mnt",)), Unshare(("pid",)))
    assert names(plan.stage2)[:2] == ["BecomeRoot", "ReplaceProc"]
    assert names(nested(plan))[0] == "AttachRoot"
    assert names(nested(plan))[-2:] == ["ShowHostProc", "PivotRoot"]
    assert not of((*plan.stage2, *nested(plan)), OpenVolume)


def test_layers_and_files_of_the_pod_are_shown_with_its_ids(inside: Any) -> None:
    tree = ImageTree(("/top", "/layers/1"), "sha256:1")
    volume = Volume("/i", image=ImageSpec("i"), readonly=True)
    plan = inside(volumes=(volume,), resolved={"image_trees": (tree,)})
    assert of(plan.stage1, MapLayers) == [MapLayers(("/layers/2", "/layers/1", "/top"))]
    (overlay,) = of(plan.stage1, MountOverlay)
    assert (overlay.attach, overlay.attributes) == (False, mount.MOUNT_ATTR_NODEV)
    maps = {each.host_path: each.id_map for each in of(plan.stage1, OpenVolume)}
    assert maps == {"/pod/hosts": USER, "/pod/resolv.conf": USER, "/pod/shm": ""}


def test_volumes_are_mapped_as_asked(inside: Any) -> None:
    other = (IdMapping(5, 0, 10),)
    volumes = (
        Volume("/same", "/h/same", uid_mappings=IDS, gid_mappings=IDS),
        Volume("/other", "/h/other", uid_mappings=other, gid_mappings=IDS),
        Volume("/plain", "/h/plain"),
    )
    plan = inside(volumes=volumes)
    maps = {each.host_path: each.id_map for each in of(plan.stage1, OpenVolume)}
    assert (maps["/h/same"], maps["/h/plain"]) == (USER, "")
    assert of(plan.stage1, MakeIdMap) == [MakeIdMap(maps["/h/other"], ((0, 5, 10),), ((0, 70000, 65536),))]


def test_devices_are_made_by_the_nodes_root(inside: Any) -> None:
    plan = inside(devices=(("/dev/fuse", "c", 10, 229, 0o660, 0, 7),))
    (dev,) = of(plan.stage1, OpenNew)
    assert {"uid=70000", "gid=70000"} < set(dev.options)
    (made,) = of(plan.stage1, MakeDevices)
    owners = {path: (uid, gid) for path, _, _, _, _, uid, gid in made.nodes}
    assert owners["/null"] == (70000, 70000)
    assert owners["/fuse"] == (0, 7)
    assert made.root == dev.name
    assert AttachVolume(dev.name, "/dev") in nested(plan)
    assert not of(nested(plan), MakeDevices)


def test_an_images_volume_without_content_belongs_to_the_pods_root(inside: Any) -> None:
    plan = inside(resolved={"image_volumes": (ImageVolume("/d", "/own/0"),)})
    (fill,) = of(plan.stage1, CopyUp)
    assert fill.owner == (70000, 70000)


def test_the_pid_namespace_comes_last(inside: Any) -> None:
    """What is forked once it is joined would be in it, the helper that mounts too."""
    shared = inside(pins={**PINS, "pid": "/pins/pid"}, pid=NamespaceMode.POD)
    assert shared.stage1[-1] == JoinNamespaces(("pid",))
    options = NamespaceOptions(pid=NamespaceMode.TARGET, target_id="t")
    aimed = inside(security=ContainerSecurity(namespaces=options), target=ProcessRef(7, 8, "boot"))
    assert aimed.stage1[-1] == JoinNamespaces(("pid",))
    order = names(aimed.stage1)
    assert order.index("OpenProcessNamespaces") < order.index("InUserNamespace")
    assert of(aimed.stage1, OpenProcessNamespaces) == [OpenProcessNamespaces(7, 8, ("pid",))]


def test_terminals_have_no_group_that_is_not_there(inside: Any) -> None:
    for length, there in ((65536, True), (5, False)):
        plan = inside(ids=(IdMapping(70000, 0, length),))
        (devpts,) = (each for each in of(nested(plan), MountNew) if each.fstype == "devpts")
        assert ("gid=5" in devpts.options) is there


def test_a_volume_takes_the_place_of_a_default_mount(inside: Any) -> None:
    for path in ("/dev", "/sys", "/proc"):
        plan = inside(volumes=(Volume(path, path),))
        assert bool(of(plan.stage1, OpenNew)) == (path != "/dev")
        assert (
            ("ShowHostProc" in names(nested(plan)))
            == ("ReplaceProc" in names(plan.stage2))
            == (path != "/proc")
        )


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"volumes": (Volume("/v", "/h", propagation=Propagation.BIDIRECTIONAL),)}, "bidirectional"),
        (
            {"resolved": {"edits": Edits(devices=(DeviceNode("/elsewhere", "c", 1, 3, 0o666, 0, 0, "rw"),))}},
            "/elsewhere",
        ),
        ({"pid": NamespaceMode.NODE}, "PID namespace"),
    ],
)
def test_what_cannot_be_is_refused(inside: Any, asked: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        inside(**asked)


def test_a_proc_without_masks_is_for_user_namespaces(inside: Any) -> None:
    assert not of(inside().stage2, ProtectPaths)
    masked = inside(security=ContainerSecurity(masked_paths=("/proc/keys",)))
    assert of(masked.stage2, ProtectPaths) == [ProtectPaths(("/proc/keys",), ())]


def test_a_privileged_one_sees_its_own_cgroups_only(inside: Any, v2: Any) -> None:
    plan = inside(place=v2, security=ContainerSecurity(privileged=True))
    assert Unshare(("cgroup",)) in plan.stage2
