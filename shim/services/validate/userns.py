"""User namespaces: what a request may say of them, as kubelet and other runtimes have it. Pure."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Final

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig
from shim.model.mount import Volume
from shim.model.sandbox import SandboxSpec
from shim.model.security import IdMapping, NamespaceMode, NamespaceOptions, User, UserNamespace, id_outside

_MAX_MAPPINGS: Final = 340  # UID_GID_MAP_MAX_EXTENTS of Linux
_MAX_IDS: Final = 2**32 - 1  # (uid_t) -1 is nobody's


def check_sandbox(options: NamespaceOptions) -> None:
    """Check the user namespace of a pod: one range, the same for users and groups, that has a root.

    Raises:
        InvalidArgument: what is wrong.
    """
    userns = options.userns
    if userns is None:
        return
    if userns.mode is NamespaceMode.NODE:
        if userns.uids or userns.gids:
            raise InvalidArgument("userns_options: mode NODE has no mappings: ids are the node's")
        return
    if userns.mode is not NamespaceMode.POD:
        raise InvalidArgument(f"userns_options: mode {userns.mode.name} is not possible: it is POD or NODE")
    _check_ranges("userns_options.uids", userns.uids)
    _check_ranges("userns_options.gids", userns.gids)
    for field, mappings in (("uids", userns.uids), ("gids", userns.gids)):
        if len(mappings) != 1:
            raise InvalidArgument(
                f"userns_options.{field}: {len(mappings)} mappings; exactly one is possible"
            )
        if mappings[0].container_id != 0:
            raise InvalidArgument(
                f"userns_options.{field}: the mapping begins at container id {mappings[0].container_id}; it"
                " must be 0, or the pod has no root"
            )
    if userns.uids != userns.gids:
        raise InvalidArgument("userns_options: uids and gids must have the same mapping")
    for kind, mode in (("network", options.network), ("ipc", options.ipc), ("pid", options.pid)):
        if mode is NamespaceMode.NODE:
            raise InvalidArgument(
                f"userns_options: a user namespace of the pod's own is not possible with the node's {kind}"
                " namespace"
            )


def check_volume(volume: Volume) -> None:
    """Check the id maps of a volume.

    Raises:
        InvalidArgument: what is wrong.
    """
    if bool(volume.uid_mappings) != bool(volume.gid_mappings):
        raise InvalidArgument(
            f"the mount on {volume.container_path!r} has only one of uidMappings and gidMappings"
        )
    _check_ranges(f"uidMappings of the mount on {volume.container_path!r}", volume.uid_mappings)
    _check_ranges(f"gidMappings of the mount on {volume.container_path!r}", volume.gid_mappings)


def check_container(config: ContainerConfig, sandbox: SandboxSpec) -> None:
    """Check that a container is in the user namespace of its pod.

    Raises:
        InvalidArgument: it is to be in another one, or in namespaces of the node.
    """
    options, userns = config.security.namespaces, sandbox.userns
    asked = options.userns if options is not None else sandbox.config.security.namespaces.userns
    if (asked if asked is not None and asked.mode is not NamespaceMode.NODE else None) != userns:
        raise InvalidArgument(
            f"userns_options of the container must be those of its sandbox: {_shown(asked)} is not"
            f" {_shown(userns)}"
        )
    for volume in config.volumes:
        maps = (volume.uid_mappings, volume.gid_mappings)
        pods = (userns.uids, userns.gids) if userns is not None else ((), ())
        if volume.image is not None and any(maps) and maps != pods:
            raise InvalidArgument(
                f"the mount on {volume.container_path!r}: an image is shown with the ids of its pod"
            )


def check_user(user: User, userns: UserNamespace | None) -> None:
    """Check that a user and its groups are somebody in a user namespace.

    Raises:
        InvalidArgument: one is not.
    """
    if userns is None:
        return
    if id_outside(userns.uids, user.uid) is None:
        raise InvalidArgument(f"user {user.uid} is not mapped in the pod's user namespace: {_shown(userns)}")
    for gid in (user.gid, *user.groups):
        if id_outside(userns.gids, gid) is None:
            raise InvalidArgument(f"group {gid} is not mapped in the pod's user namespace: {_shown(userns)}")


def _check_ranges(field: str, mappings: Sequence[IdMapping]) -> None:
    if len(mappings) > _MAX_MAPPINGS:
        raise InvalidArgument(f"{field}: {len(mappings)} mappings; the kernel takes {_MAX_MAPPINGS}")
    for each in mappings:
        if each.length <= 0:
            raise InvalidArgument(f"{field}: a mapping of {each.length} ids")
        if max(each.host_id, each.container_id) + each.length > _MAX_IDS:
            raise InvalidArgument(
                f"{field}: a mapping of {each.length} ids from {each.host_id} on ends nowhere"
            )

    for side in ("container_id", "host_id"):
        end = 0
        for each in sorted(mappings, key=operator.attrgetter(side)):
            if getattr(each, side) < end:
                raise InvalidArgument(f"{field}: two mappings have the same {side} {getattr(each, side)}")
            end = getattr(each, side) + each.length


def _shown(userns: UserNamespace | None) -> str:
    if userns is None or userns.mode is NamespaceMode.NODE:
        return "the node's"
    ranges = (f"{each.container_id}:{each.host_id}:{each.length}" for each in userns.uids)
    return f"{userns.mode.name} {','.join(ranges)}"
