"""The plan of a container whose pod has a user namespace; ``steps_users`` tells the order. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from shim.kernel import mount
from shim.model.security import NamespaceMode, UserNamespace, id_outside
from shim.runtime import container_parts as parts
from shim.runtime import default_files as defaults
from shim.runtime import plan_volumes
from shim.runtime.container_parts import ContainerPlan
from shim.runtime.plan import Plan
from shim.runtime.plan_mount_label import label_mounts
from shim.runtime.plan_process import (
    plan_directory,
    plan_label_files,
    plan_limits,
    plan_oom_score,
    plan_program,
)
from shim.runtime.plan_volumes import CGROUPS, Bound
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import (
    DetachFromHost,
    MakeDevices,
    MountNew,
    MountOverlay,
    OpenNew,
    OpenTerminal,
    PivotRoot,
    RootReadonly,
)
from shim.runtime.steps_namespaces import (
    EnterV1Cgroups,
    JoinNamespaces,
    OpenCgroups,
    OpenNamespaces,
    Unshare,
)
from shim.runtime.steps_process import Keyring, Streams
from shim.runtime.steps_users import (
    AttachRoot,
    BecomeRoot,
    EnterUserNamespace,
    InUserNamespace,
    MapLayers,
    OpenProcessNamespaces,
    ReplaceProc,
    ShowHostProc,
)
from shim.runtime.steps_volumes import AttachVolume

_DEV = "dev"
_TTY_GROUP = 5


def plan_container_in_userns(c: ContainerPlan, userns: UserNamespace) -> Plan:
    """Return the plan; what cannot be in a user namespace ``container_parts.refuse`` has refused."""
    volumes = plan_volumes.plan_volumes(c.spec, c.pod_files, c.shm, userns)
    replaced = frozenset(each.target for each in volumes)
    shared = parts.shared_kinds(c)
    keep_proc, open_labels = plan_label_files(c.privileges.labels)
    stage1: list[Step] = [
        plan_oom_score(c.spec),
        *keep_proc,
        OpenCgroups(c.place.join.v1_tasks, c.place.join.v2_dir),
        OpenNamespaces(tuple((kind, c.sandbox.pins[kind]) for kind in ("user", *shared))),
        *_open_target(c),
        *plan_volumes.open_steps(volumes),
        JoinNamespaces(tuple(kind for kind in shared if kind != "pid")),
        Unshare(("mnt",)),
        DetachFromHost(),
        *label_mounts(_layers(c, volumes), c.mount_label),
        *plan_volumes.image_steps(volumes, userns.outside(0, 0)),
        *label_mounts(_devices(c, userns, replaced), c.mount_label),
        InUserNamespace.of(label_mounts(_inside(c, userns, volumes, replaced), c.mount_label)),
        plan_limits(c.spec, c.limits, keyring=False),
        EnterUserNamespace(),
        JoinNamespaces(("mnt",)),
        *_pid_namespace(c),
    ]
    stage2: list[Step] = [*open_labels, BecomeRoot()]
    if "/proc" not in replaced:
        stage2.append(ReplaceProc(defaults.PLAIN))
    stage2 += [
        *parts.v2_cgroups(c, replaced),
        *plan_volumes.attach_late(volumes),
        *parts.protection(c),
        Keyring(c.spec.id),
        plan_directory(c.spec),
    ]
    if c.spec.config.security.readonly_rootfs:
        stage2.append(RootReadonly())
    stage2 += [
        Streams(c.spec.user.uid, c.spec.user.gid),
        EnterV1Cgroups(len(c.place.join.v1_tasks)),
        *plan_program(c.spec, c.spec.argv, c.privileges),
    ]
    return Plan("container", tuple(stage1), tuple(stage2))


def _layers(c: ContainerPlan, volumes: Iterable[Bound]) -> Iterable[Step]:
    """Mount the layers with their ids mapped; the writable one holds mapped ids from the beginning.

    Devices of the image are not to be had: its root would own them here.
    """
    rootfs = c.spec.rootfs
    images = [path for each in volumes if each.tree is not None for path in each.tree.lowers]
    yield MapLayers(tuple(dict.fromkeys((*rootfs.lowers, *images))))
    yield MountOverlay(
        rootfs.lowers, rootfs.upper, rootfs.work, attach=False, attributes=mount.MOUNT_ATTR_NODEV
    )


def _open_target(c: ContainerPlan) -> Iterable[Step]:
    target = parts.target_of(c)
    if target is not None:
        yield OpenProcessNamespaces(target.pid, target.start_time, ("pid",))


def _pid_namespace(c: ContainerPlan) -> Iterable[Step]:
    """Join or make it last: whoever is forked after that is in it."""
    own = parts.pid_mode(c.spec, c.sandbox) is NamespaceMode.CONTAINER
    yield Unshare(("pid",)) if own else JoinNamespaces(("pid",))


def _devices(c: ContainerPlan, userns: UserNamespace, replaced: frozenset[str]) -> Iterable[Step]:
    """Make /dev as the host's root: in a user namespace nobody may make a device.

    The usual devices belong to the pod's root, others to whom they belong on the host, who is nobody here.
    """
    if "/dev" in replaced:
        return
    uid, gid = userns.outside(0, 0)
    made = next(each for each in parts.early_mounts(c, replaced) if each.target == "/dev")
    yield OpenNew(_DEV, made.fstype, made.attributes, (*made.options, f"uid={uid}", f"gid={gid}"))
    usual = [(*each[:5], uid, gid) for each in defaults.DEVICES]
    nodes = tuple((each[0].removeprefix("/dev"), *each[1:]) for each in (*usual, *c.devices))
    links = tuple((path.removeprefix("/dev"), leads_to) for path, leads_to in defaults.LINKS)
    yield MakeDevices(nodes, links, _DEV, (uid, gid))


def _inside(
    c: ContainerPlan, userns: UserNamespace, volumes: list[Bound], replaced: frozenset[str]
) -> Iterable[Step]:
    yield AttachRoot()
    yield from plan_volumes.attach_among(_default_mounts(c, userns, replaced), volumes)
    if "/proc" not in replaced:
        yield ShowHostProc()
    if c.spec.config.tty:
        yield OpenTerminal(c.spec.user.uid, 0, 0)
    yield PivotRoot()


def _default_mounts(
    c: ContainerPlan, userns: UserNamespace, replaced: frozenset[str]
) -> Iterable[tuple[str, Iterable[Step]]]:
    for each in parts.early_mounts(c, replaced):
        yield (
            each.target,
            (AttachVolume(_DEV, "/dev") if each.target == "/dev" else _known_group(each, userns),),
        )
    yield CGROUPS, parts.v1_cgroups(c, replaced)


def _known_group(each: MountNew, userns: UserNamespace) -> MountNew:
    """Leave the group of terminals out where the pod has none of that number."""
    if id_outside(userns.gids, _TTY_GROUP) is not None:
        return each
    options = tuple(option for option in each.options if option != f"gid={_TTY_GROUP}")
    return dataclasses.replace(each, options=options)
