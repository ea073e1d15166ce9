"""From the CDI devices that a container asks for to what it gets.

The edits that a file has for all of its devices come once, before those of the first of them. What the file
leaves out of a device node is asked of the node, so a container can be made only where the device is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from shim.errors import FailedPrecondition, Unimplemented
from shim.model import edits as model
from shim.model.mount import Propagation, Volume
from shim.model.security import User
from shim.services.cdi import files
from shim.services.cdi.library import Found

_MODE: Final = 0o666  # of a device that is not on the node, as runc has it
_KINDS: Final = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}
_HOOKS: Final = (model.PRESTART, model.CREATE_RUNTIME, model.CREATE_CONTAINER)

_BIND_TYPES: Final = ("", "bind", "none")
_PROPAGATION: Final = {
    "private": Propagation.PRIVATE,
    "rprivate": Propagation.PRIVATE,
    "slave": Propagation.HOST_TO_CONTAINER,
    "rslave": Propagation.HOST_TO_CONTAINER,
    "shared": Propagation.BIDIRECTIONAL,
    "rshared": Propagation.BIDIRECTIONAL,
}
_ATTRIBUTES: Final = ("nosuid", "nodev", "noexec")
_AS_IT_IS: Final = ("", "bind", "rbind", "rw", "suid", "dev", "exec", "relatime", "defaults")
_READ_ONLY: Final = ("ro", "rro")


@dataclass(frozen=True, slots=True)
class Resolved:
    """All that a container gets.

    Attributes:
        env: ``NAME=value``, going before what the request says.
        gids: supplemental groups.
    """

    env: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()
    edits: model.Edits = field(default_factory=model.Edits)


def resolve(devices: Sequence[Found], user: User) -> Resolved:
    """Return what a container gets. Blocking, for a short time: it looks at devices of the node.

    Args:
        devices: in the order asked for.
        user: of the container; a device node belongs to it unless the file says something else.

    Raises:
        FailedPrecondition: the node lacks a device or a path.
        Unimplemented: a file asks for what is not done here.
    """
    parts = list(_in_order(devices))
    return Resolved(
        tuple(entry for _, edits in parts for entry in edits.env),
        tuple(gid for _, edits in parts for gid in edits.additional_gids if gid),
        model.Edits(
            _last(_device(path, node, user) for path, edits in parts for node in edits.device_nodes),
            tuple(_volume(path, mount) for path, edits in parts for mount in edits.mounts),
            tuple(_hook(path, hook) for path, edits in parts for hook in edits.hooks),
        ),
    )


def _in_order(devices: Sequence[Found]) -> Iterator[tuple[str, files.Edits]]:
    seen: set[str] = set()
    for found in devices:
        if found.path not in seen:
            seen.add(found.path)
            yield found.path, _possible(found.path, found.specification.container_edits)
        yield found.path, _possible(found.path, found.device.container_edits)


def _possible(path: str, edits: files.Edits) -> files.Edits:
    if edits.net_devices or edits.intel_rdt is not None:
        field = "netDevices" if edits.net_devices else "intelRdt"
        raise Unimplemented(f"the CDI file {path} has {field}, which is not supported")
    return edits


def _last(nodes: Iterator[model.DeviceNode]) -> tuple[model.DeviceNode, ...]:
    """Of nodes at one path the last counts."""
    by_path: dict[str, model.DeviceNode] = {}
    for node in nodes:
        by_path.pop(node.path, None)
        by_path[node.path] = node
    return tuple(by_path.values())


def _device(path: str, node: files.DeviceNode, user: User) -> model.DeviceNode:
    kind = "c" if node.type == "u" else node.type
    major, minor = node.major, node.minor
    complete = kind == "p" or (kind != "" and major != 0)
    status = _look(path, node, kind, required=not complete)
    if status is not None and not complete:
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    mode = node.file_mode
    if mode is None:
        mode = _MODE if status is None else status.st_mode
    return model.DeviceNode(
        node.path,
        kind,
        0 if kind == "p" else major,
        0 if kind == "p" else minor,
        stat.S_IMODE(mode),
        user.uid if node.uid is None else node.uid,
        user.gid if node.gid is None else node.gid,
        _access(node.permissions),
    )


def _look(path: str, node: files.DeviceNode, kind: str, *, required: bool) -> os.stat_result | None:
    """Return what the node knows of a device; None for one that it need not and does not have."""
    host_path = node.host_path or node.path
    try:
        status = os.stat(host_path)
    except OSError as error:
        if not required:
            return None
        raise FailedPrecondition(
            f"the CDI file {path} has the device {host_path!r}, which cannot be used: {error.strerror}"
        ) from None
    found = _KINDS.get(stat.S_IFMT(status.st_mode), "")
    if required and (not found or kind not in ("", found)):
        what = f"of type {found}" if found else "no device"
        raise FailedPrecondition(
            f"the CDI file {path} has the device {host_path!r} of type {kind or 'any'}: it is {what}"
        )
    return status


def _access(permissions: str) -> str:
    if permissions == files.NO_PERMISSIONS:
        return ""
    return permissions or "rwm"


def _volume(path: str, mount: files.Mount) -> Volume:
    at = f"the CDI file {path} has the mount at {mount.container_path!r}"
    if mount.type not in _BIND_TYPES:
        raise Unimplemented(f"{at} of type {mount.type!r}: only bind mounts are supported")
    if not mount.host_path.startswith("/") or not os.path.exists(mount.host_path):
        raise FailedPrecondition(f"{at} of {mount.host_path!r}, which is not there")
    known = (*_PROPAGATION, *_ATTRIBUTES, *_AS_IT_IS, *_READ_ONLY)
    for option in mount.options:
        if option not in known:
            raise Unimplemented(f"{at} with the option {option!r}, which is not supported")
    propagations = [_PROPAGATION[option] for option in mount.options if option in _PROPAGATION]
    return Volume(
        mount.container_path,
        mount.host_path,
        readonly=any(option in _READ_ONLY for option in mount.options),
        propagation=propagations[-1] if propagations else Propagation.PRIVATE,
        recursive_read_only="rro" in mount.options,
        mount_options=tuple(option for option in _ATTRIBUTES if option in mount.options),
    )


def _hook(path: str, hook: files.Hook) -> model.Hook:
    if hook.hook_name not in _HOOKS:
        raise Unimplemented(
            f"the CDI file {path} has the {hook.hook_name} hook {hook.path}, which is not run here: "
            f"only {', '.join(_HOOKS)} hooks are"
        )
    return model.Hook(hook.hook_name, hook.path, hook.args or (hook.path,), hook.env, hook.timeout or 0)
