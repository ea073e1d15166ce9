"""The plan of a container: which steps, in which order."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import pytest

from shim.errors import InvalidArgument
from shim.kernel import mount
from shim.model.container import ProcessRef
from shim.model.edits import Edits
from shim.model.image import ImageSpec
from shim.model.mount import ImageTree, Propagation, Volume
from shim.model.resources import Resources
from shim.model.security import ContainerSecurity, NamespaceMode, NamespaceOptions
from shim.runtime import default_files
from shim.runtime.plan import Plan, decode_plan, encode_plan
from shim.runtime.plan_container import plan_container
from shim.runtime.plan_volumes import plan_volumes
from shim.runtime.privileges import Label, Privileges
from shim.runtime.steps import Step
from shim.runtime.steps_images import MountImage
from shim.runtime.steps_labels import KeepProc, OpenLabels, WriteLabels
from shim.runtime.steps_mounts import MakeDevices, MountNew, OpenTerminal, ProtectPaths, RootReadonly
from shim.runtime.steps_namespaces import JoinNamespaces, JoinProcess, Unshare
from shim.runtime.steps_process import Defaults, Execute, Identity, OomScore, Streams
from shim.runtime.steps_volumes import AttachVolume, OpenVolume, RestrictVolume, ShowCgroups

S = TypeVar("S", bound=Step)


def names(steps: tuple[Step, ...]) -> list[str]:
    return [type(each).__name__ for each in steps]


def of(plan: Plan, kind: type[S]) -> list[S]:
    return [each for each in (*plan.stage1, *plan.stage2) if isinstance(each, kind)]


def security(**options: Any) -> ContainerSecurity:
    return ContainerSecurity(**options)


def test_host_paths_are_opened_before_and_the_root_is_left_after_everything(container: Any) -> None:
    plan = plan_container(container())
    order = names(plan.stage1)
    assert order[:2] == ["OomScore", "OpenCgroups"], "as long as /proc is the node's"
    assert order[-1] == "PivotRoot"
    last_open = max(i for i, name in enumerate(order) if name == "OpenVolume")
    assert last_open < order.index("OpenNamespaces") < order.index("JoinNamespaces") < order.index("Unshare")
    assert order.index("Unshare") + 1 == order.index("DetachFromHost") == order.index("MountOverlay") - 1
    assert names(plan.stage2) == [
        *("MountNew", "ProtectPaths", "Defaults", "EnterDirectory"),
        *("Streams", "EnterV1Cgroups", "Identity", "Execute"),
    ]


def test_a_plan_survives_its_way_to_the_child(container: Any) -> None:
    volume = Volume("/v", "/host", propagation=Propagation.BIDIRECTIONAL)
    plan = plan_container(container(tty=True, volumes=(volume,)))
    assert decode_plan(encode_plan(plan)) == plan


def test_the_process_is_the_specs(container: Any) -> None:
    plan = plan_container(container(resources=Resources(oom_score_adj=-998)))
    assert of(plan, Identity) == [Identity(1000, 1001, (1001, 5), 0b11, 0, False, "", 0)]
    assert of(plan, Execute) == [Execute(("program", "argument"), ("PATH=/bin", "RAW=\udcff"))]
    assert of(plan, Streams) == [Streams(1000, 1001)]
    assert [step.keyring for step in of(plan, Defaults)] == ["c"]
    assert plan.stage1[0] == OomScore(-998)


def test_the_root_becomes_readonly_after_the_working_directory_was_made(container: Any) -> None:
    plan = plan_container(container(security=security(readonly_rootfs=True)))
    order = names(plan.stage2)
    assert order.index("EnterDirectory") + 1 == order.index("RootReadonly")
    assert of(plan_container(container()), RootReadonly) == []


def test_version_1_shows_each_hierarchy_from_the_containers_cgroup_down(container: Any) -> None:
    (binds,) = of(plan_container(container()), ShowCgroups)
    assert binds.binds == (
        ("/cg/memory/pods/c", "memory"),
        ("/cg/cpu/pods/c", "cpu"),
    )
    assert binds.attributes & mount.MOUNT_ATTR_RDONLY


def test_version_2_has_a_cgroup_namespace_made_inside_the_cgroup(container: Any, v2: Any) -> None:
    plan = plan_container(container(place=v2))
    assert plan.stage2[:3] == (
        MountNew("proc", "proc", "/proc", default_files.PLAIN, ()),
        Unshare(("cgroup",)),
        MountNew(
            *("cgroup2", "cgroup", "/sys/fs/cgroup"),
            default_files.PLAIN | mount.MOUNT_ATTR_RDONLY,
            (),
        ),
    )
    assert of(plan, ShowCgroups) == []


@pytest.mark.parametrize(
    ("pods", "asked", "made", "joined"),
    [
        (NamespaceMode.CONTAINER, NamespaceMode.CONTAINER, ("mnt", "pid"), ("net", "ipc", "uts")),
        (NamespaceMode.CONTAINER, NamespaceMode.POD, ("mnt", "pid"), ("net", "ipc", "uts")),
        (NamespaceMode.CONTAINER, None, ("mnt", "pid"), ("net", "ipc", "uts")),
        (NamespaceMode.CONTAINER, NamespaceMode.NODE, ("mnt",), ("net", "ipc", "uts")),
        (NamespaceMode.POD, NamespaceMode.POD, ("mnt",), ("net", "ipc", "uts", "pid")),
        (NamespaceMode.POD, None, ("mnt",), ("net", "ipc", "uts", "pid")),
        (NamespaceMode.POD, NamespaceMode.CONTAINER, ("mnt", "pid"), ("net", "ipc", "uts")),
        (NamespaceMode.NODE, NamespaceMode.POD, ("mnt",), ("net", "ipc", "uts")),
    ],
)
def test_whose_processes_are_seen(
    container: Any, sandbox: Any, pods: NamespaceMode, asked: NamespaceMode | None, made: Any, joined: Any
) -> None:
    pins = {kind: f"/pins/{kind}" for kind in ("net", "ipc", "uts")}
    if pods is NamespaceMode.POD:
        pins["pid"] = "/pins/pid"
    options = None if asked is None else NamespaceOptions(pid=asked)
    plan = plan_container(container(within=sandbox(pods, pins), security=security(namespaces=options)))
    assert of(plan, Unshare) == [Unshare(made)]
    assert of(plan, JoinNamespaces) == [JoinNamespaces(joined)]


def test_a_target_is_joined_by_its_process(container: Any) -> None:
    options = NamespaceOptions(pid=NamespaceMode.TARGET, target_id="t")
    asked = security(namespaces=options)
    plan = plan_container(container(security=asked, target=ProcessRef(7, 8, "boot")))
    assert of(plan, JoinProcess) == [JoinProcess(7, 8, ("pid",))]
    assert of(plan, Unshare) == [Unshare(("mnt",))]
    with pytest.raises(InvalidArgument):
        plan_container(container(security=asked))


def test_a_pod_on_the_host_joins_nothing(container: Any, sandbox: Any) -> None:
    plan = plan_container(container(within=sandbox(NamespaceMode.NODE, {})))
    assert of(plan, JoinNamespaces) == []


@pytest.mark.parametrize("path", ["/sys", "/dev", "/dev/mqueue", "/dev/pts", "/sys/fs/cgroup"])
def test_a_volume_takes_the_place_of_a_default_mount(container: Any, path: str) -> None:
    plan = plan_container(container(volumes=(Volume(path, "/host"),)))
    assert path not in [step.target for step in of(plan, MountNew)]
    assert path in [step.target for step in of(plan, AttachVolume)]
    assert bool(of(plan, MakeDevices)) == (path != "/dev")


def test_a_volume_at_dev_has_the_usual_mounts_on_it(container: Any) -> None:
    plan = plan_container(container(volumes=(Volume("/dev", "/dev"), Volume("/dev/pts/x", "/x"))))
    targets = [each.target for each in plan.stage1 if isinstance(each, AttachVolume | MountNew)]
    assert targets.index("/dev") < targets.index("/dev/pts") < targets.index("/dev/pts/x")
    assert targets.index("/dev") < targets.index("/dev/mqueue")


@pytest.mark.parametrize("path", ["/proc/meminfo", "/sys/fs/cgroup/mine"])
def test_what_lies_on_a_late_mount_is_attached_late(container: Any, path: str) -> None:
    plan = plan_container(container(volumes=(Volume(path, "/host"),)))
    assert path in [step.target for step in plan.stage2 if isinstance(step, AttachVolume)]


def test_the_nodes_proc_may_take_the_place_of_the_containers(container: Any) -> None:
    plan = plan_container(container(volumes=(Volume("/proc", "/proc"),)))
    assert names(plan.stage2)[:2] == ["AttachVolume", "ProtectPaths"]


def test_protected_paths(container: Any) -> None:
    usual = ProtectPaths(default_files.MASKED_PATHS, default_files.READONLY_PATHS)
    assert of(plan_container(container()), ProtectPaths) == [usual]
    own = security(masked_paths=("/m",))
    assert of(plan_container(container(security=own)), ProtectPaths) == [ProtectPaths(("/m",), ())]
    privileged = security(privileged=True, masked_paths=("/m",))
    assert of(plan_container(container(security=privileged)), ProtectPaths) == []


def test_a_terminal_is_opened_when_its_file_system_is_there(container: Any) -> None:
    plan = plan_container(container(tty=True))
    assert of(plan, OpenTerminal) == [OpenTerminal(1000, 0, 0)]
    assert names(plan.stage1)[-2] == "OpenTerminal"


def test_volumes_are_opened_as_asked(container: Any) -> None:
    volume = Volume(
        "/v", "/host", readonly=True, recursive_read_only=True, propagation=Propagation.HOST_TO_CONTAINER
    )
    opened = of(plan_container(container(volumes=(volume,))), OpenVolume)
    assert OpenVolume("volume 0", "/host", True, True, 1, foreign=True) in opened
    assert [each.host_path for each in opened if each.foreign] == ["/host"]


def test_another_file_system_at_proc_is_refused(container: Any) -> None:
    with pytest.raises(InvalidArgument, match="proc"):
        plan_container(container(volumes=(Volume("/proc/", "/host"),)))


def test_images_are_mounted_once_there_is_a_place_that_the_host_does_not_see(container: Any) -> None:
    one, two = ImageTree(("/top/0", "/one"), "sha256:1"), ImageTree(("/top/1", "/two"), "sha256:2")
    volumes = (
        Volume("/deep/in/one", image=ImageSpec("one"), readonly=True, image_sub_path="etc"),
        Volume("/host", "/srv"),
        Volume("/two", image=ImageSpec("one"), readonly=True),
    )
    plan = plan_container(container(volumes=volumes, resolved={"image_trees": (one, two)}))
    images, attached = of(plan, MountImage), {each.name: each.target for each in of(plan, AttachVolume)}
    assert {attached[each.name]: (each.lowers, each.sub_path) for each in images} == {
        "/deep/in/one": (one.lowers, "etc"),
        "/two": (two.lowers, ""),
    }
    order = names(plan.stage1)
    assert order.index("MountOverlay") < order.index("MountImage") < order.index("AttachVolume")
    assert "/srv" in {each.host_path for each in of(plan, OpenVolume)}
    assert decode_plan(encode_plan(plan)) == plan


def test_labels_are_opened_first_and_written_before_privileges_go(container: Any) -> None:
    label = Label(("attr/apparmor/exec", "attr/exec"), "exec mine")
    c = dataclasses.replace(container(), privileges=Privileges(0, labels=(label,)))
    plan = plan_container(c)
    assert plan.stage1[1] == KeepProc()
    assert plan.stage2[0] == OpenLabels((label.candidates,))
    assert plan.stage2[-3] == WriteLabels(("exec mine",))
    assert names(plan.stage2)[-2:] == ["Identity", "Execute"]
    assert not {"KeepProc", "OpenLabels", "WriteLabels"} & {
        *names(plan_container(container()).stage1 + plan_container(container()).stage2)
    }


def edited(c: Any, *volumes: Volume) -> Any:
    return dataclasses.replace(c, spec=dataclasses.replace(c.spec, edits=Edits(volumes=volumes)))


def test_a_volume_of_a_device_takes_the_place_of_others(container: Any) -> None:
    asked = container(volumes=(Volume("/data/", "/h/theirs"), Volume("/other", "/h/other")))
    made = edited(asked, Volume("/data", "/h/device"), Volume("/etc/hosts", "/h/hosts"))
    planned = plan_volumes(made.spec, made.pod_files, made.shm)
    sources = {each.volume.container_path: each.volume.host_path for each in planned}
    assert sources["/data"] == "/h/device"
    assert sources["/etc/hosts"] == "/h/hosts"
    assert sources["/other"] == "/h/other"
    assert "/data/" not in sources


def test_attributes_of_a_volume_are_set_before_it_is_seen(container: Any) -> None:
    made = edited(container(), Volume("/data", "/h", mount_options=("nosuid", "nodev")))
    plan = plan_container(made)
    (restrict,) = of(plan, RestrictVolume)
    assert restrict.attributes == mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    opened = next(step for step in of(plan, OpenVolume) if step.host_path == "/h")
    assert opened.name == restrict.name
    with pytest.raises(InvalidArgument, match="/proc"):
        plan_container(edited(container(), Volume("/proc", "/h")))


def test_a_privileged_container_sees_the_whole_unified_tree(container: Any, v2: Any) -> None:
    for privileged in (True, False):
        plan = plan_container(container(place=v2, security=security(privileged=privileged)))
        assert (Unshare(("cgroup",)) in plan.stage2) is not privileged
        (shown,) = (each for each in of(plan, MountNew) if each.fstype == "cgroup2")
        assert bool(shown.attributes & mount.MOUNT_ATTR_RDONLY) is not privileged
