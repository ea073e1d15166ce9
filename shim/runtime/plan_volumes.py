"""What is bound into a container: the pod's files, volumes of the request, volumes of the image. Pure."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shim.kernel import mount
from shim.model.container import ContainerSpec
from shim.model.mount import ImageTree, Volume
from shim.model.security import IdMapping, UserNamespace
from shim.runtime.steps import Step
from shim.runtime.steps_images import CopyUp, MountImage
from shim.runtime.steps_users import USER, MakeIdMap
from shim.runtime.steps_volumes import AttachVolume, OpenVolume, RestrictVolume
from shim.runtime.userns import IdMap

CGROUPS = "/sys/fs/cgroup"
_SHM = "/dev/shm"  # noqa: S108 - a mount point, not a place for a file

MOUNT_OPTIONS: Final = {
    "nosuid": mount.MOUNT_ATTR_NOSUID,
    "nodev": mount.MOUNT_ATTR_NODEV,
    "noexec": mount.MOUNT_ATTR_NOEXEC,
    "nosymfollow": mount.MOUNT_ATTR_NOSYMFOLLOW,
    "ro": mount.MOUNT_ATTR_RDONLY,
}


@dataclass(frozen=True, slots=True)
class Bound:
    """One thing that is bound.

    Attributes:
        name: under which one step leaves it to the next.
        tree: of a volume that is an image.
        filled: it begins as a copy of what the image has in its place.
        foreign: its host path is the request's, not one of ours.
        id_map: uid and gid map that it is shown with; None for none.
        id_map_name: under which its user namespace is kept.
    """

    name: str
    volume: Volume
    tree: ImageTree | None = None
    filled: bool = False
    foreign: bool = False
    id_map: tuple[IdMap, IdMap] | None = None
    id_map_name: str = ""

    @property
    def target(self) -> str:
        """Where it is bound, with no needless part."""
        return normal(self.volume.container_path)

    @property
    def depth(self) -> int:
        """How many directories lie above it."""
        return self.target.count("/")

    @property
    def late(self) -> bool:
        """Whether it lies on what stage 2 mounts."""
        return self.target.startswith(("/proc/", CGROUPS + "/")) or self.target == "/proc"


def normal(path: str) -> str:
    """Return a container path without needless parts."""
    return posixpath.normpath("/" + path.lstrip("/"))


def to_id_map(mappings: Iterable[IdMapping]) -> IdMap:
    """Return mappings as steps carry them."""
    return tuple((each.container_id, each.host_id, each.length) for each in mappings)


def asked_volumes(spec: ContainerSpec) -> list[Volume]:
    """Return volumes of the request and those of CDI devices, which take the place of others."""
    edited = {normal(volume.container_path): volume for volume in spec.edits.volumes}
    asked = [volume for volume in spec.config.volumes if normal(volume.container_path) not in edited]
    return [*asked, *edited.values()]


def plan_volumes(
    spec: ContainerSpec, pod_files: Mapping[str, str], shm: str, userns: UserNamespace | None = None
) -> list[Bound]:
    """Return everything that is bound; outer paths come first.

    The pod's files go where no volume takes their place, and the image's volumes where nothing else does.

    Args:
        spec: the container.
        pod_files: container path to the host path of a file of the pod.
        shm: host directory that is the pod's /dev/shm.
        userns: of the pod, which is kept as ``steps_users.USER``; its files are shown with its ids.
    """
    asked = asked_volumes(spec)
    pictured = [volume for volume in spec.config.volumes if volume.image is not None]
    trees = dict(zip(map(id, pictured), spec.image_trees, strict=True))
    bound = [Bound("", volume, trees.get(id(volume)), foreign=True) for volume in asked]
    taken = {each.target for each in bound}
    readonly = spec.config.security.readonly_rootfs
    maps = (userns.uids, userns.gids) if userns is not None else ((), ())
    ours = [
        Volume(path, source, readonly=readonly, uid_mappings=maps[0], gid_mappings=maps[1])
        for path, source in pod_files.items()
    ]
    ours.append(Volume(_SHM, shm))
    bound += [Bound("", volume) for volume in ours if volume.container_path not in taken]
    taken.update(volume.container_path for volume in ours)
    images = [
        Bound("", Volume(each.container_path, each.directory), filled=True) for each in spec.image_volumes
    ]
    bound += [each for each in images if each.target not in taken]
    named = [_name(each, number, userns) for number, each in enumerate(bound)]
    return sorted(named, key=lambda each: each.depth)


def _name(bound: Bound, number: int, userns: UserNamespace | None) -> Bound:
    """Return it with the names under which it and its id map are kept."""
    volume, name = bound.volume, f"volume {number}"
    if not volume.uid_mappings or bound.tree is not None:
        return dataclasses.replace(bound, name=name)
    pods = userns is not None and (volume.uid_mappings, volume.gid_mappings) == (userns.uids, userns.gids)
    maps = to_id_map(volume.uid_mappings), to_id_map(volume.gid_mappings)
    id_map_name = USER if pods else f"id map {number}"
    return dataclasses.replace(bound, name=name, id_map=maps, id_map_name=id_map_name)


def open_steps(bound: Iterable[Bound]) -> Iterable[Step]:
    """Return what opens host paths: as long as they are the host's."""
    for each in bound:
        volume = each.volume
        if each.tree is not None:
            continue
        if each.id_map is not None and each.id_map_name != USER:
            yield MakeIdMap(each.id_map_name, *each.id_map)
        yield OpenVolume(
            each.name,
            volume.host_path,
            volume.readonly,
            volume.recursive_read_only,
            int(volume.propagation),
            each.id_map_name,
            each.foreign,
        )
        yield from _restrict(each)


def _restrict(bound: Bound) -> Iterable[Step]:
    attributes = 0
    for option in bound.volume.mount_options:
        attributes |= MOUNT_OPTIONS.get(option, 0)
    if attributes:
        yield RestrictVolume(bound.name, attributes)


def image_steps(bound: Iterable[Bound], owner: tuple[int, int] = (0, 0)) -> Iterable[Step]:
    """Return what needs the image's layers, or those of another one, mounted.

    Args:
        bound: everything.
        owner: host ids of the container's root.
    """
    for each in bound:
        if each.tree is not None:
            yield MountImage(each.name, each.tree.lowers, each.volume.image_sub_path)
            yield from _restrict(each)
        if each.filled:
            yield CopyUp(each.name, each.target, owner)


def attach_late(bound: Iterable[Bound]) -> Iterable[Step]:
    """Return what puts those on what stage 2 mounts where the container sees them."""
    return (AttachVolume(each.name, each.volume.container_path) for each in bound if each.late)


def attach_among(mounts: Iterable[tuple[str, Iterable[Step]]], bound: Iterable[Bound]) -> Iterable[Step]:
    """Return what puts the others where the container sees them, in between the default mounts.

    Whatever lies on another comes after it, whoever asked for it: a volume at /dev has a new /dev/pts on it.

    Args:
        mounts: pairs of (container path, steps that mount there).
        bound: everything.
    """
    early = (
        (each.target, (AttachVolume(each.name, each.volume.container_path),))
        for each in bound
        if not each.late
    )
    for _, steps in sorted([*mounts, *early], key=lambda each: each[0].count("/")):
        yield from steps
