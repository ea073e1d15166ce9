"""What is bound into a container: the pod's files, volumes of the request, volumes of the image. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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

_ATTRIBUTES = {
    "nosuid": mount.MOUNT_ATTR_NOSUID,
    "nodev": mount.MOUNT_ATTR_NODEV,
    "noexec": mount.MOUNT_ATTR_NOEXEC,
}


@dataclass(frozen=True, slots=True)
class Bound:
    """One thing that is bound.

    Attributes:
        name: under which one step leaves it to the next.
        tree: of a volume that is an image.
        filled: it begins as a copy of what the image has in its place.
        id_map: uid and gid map that it is shown with; None for none.
        id_map_name: under which its user namespace is kept.
    """

    name: str
    volume: Volume
    tree: ImageTree | None = None
    filled: bool = False
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
    images = [volume for volume in spec.config.volumes if volume.image is not None]
    trees = dict(zip(map(id, images), spec.image_trees, strict=True))
    found = [(volume, trees.get(id(volume)), False) for volume in asked]
    taken = {normal(volume.container_path) for volume in asked}
    readonly = spec.config.security.readonly_rootfs
    maps = (userns.uids, userns.gids) if userns is not None else ((), ())
    ours = [
        Volume(path, source, readonly=readonly, uid_mappings=maps[0], gid_mappings=maps[1])
        for path, source in pod_files.items()
    ]
    ours.append(Volume(_SHM, shm))
    found += [(volume, None, False) for volume in ours if volume.container_path not in taken]
    taken.update(volume.container_path for volume in ours)
    found += [
        (Volume(each.container_path, each.directory), None, True)
        for each in spec.image_volumes
        if normal(each.container_path) not in taken
    ]
    bound = [
        Bound(f"volume {number}", *each, *_id_map(each[0], userns, number))
        for number, each in enumerate(found)
    ]
    return sorted(bound, key=lambda each: each.depth)


def _id_map(
    volume: Volume, userns: UserNamespace | None, number: int
) -> tuple[tuple[IdMap, IdMap] | None, str]:
    if not volume.uid_mappings:
        return None, ""
    pods = userns is not None and (volume.uid_mappings, volume.gid_mappings) == (userns.uids, userns.gids)
    maps = to_id_map(volume.uid_mappings), to_id_map(volume.gid_mappings)
    return maps, USER if pods else f"id map {number}"


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
        )
        attributes = sum(_ATTRIBUTES.get(option, 0) for option in volume.mount_options)
        if attributes:
            yield RestrictVolume(each.name, attributes)


def image_steps(bound: Iterable[Bound], owner: tuple[int, int] = (0, 0)) -> Iterable[Step]:
    """Return what needs the image's layers, or those of another one, mounted.

    Args:
        bound: everything.
        owner: host ids of the container's root.
    """
    for each in bound:
        if each.tree is not None:
            yield MountImage(each.name, each.tree.lowers, each.volume.image_sub_path)
        if each.filled:
            yield CopyUp(each.name, each.target, owner)


def attach_steps(bound: Iterable[Bound], *, late: bool) -> Iterable[Step]:
    """Return what puts them where the container sees them."""
    return (AttachVolume(each.name, each.volume.container_path) for each in bound if each.late is late)
