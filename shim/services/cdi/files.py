"""One CDI file: from its text to what it says. Pure.

A field that the specification does not have makes a file invalid, as does one that is newer than the version
that the file claims.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from shim.errors import InvalidArgument
from shim.services.cdi import names

VERSIONS: Final = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
SUFFIXES: Final = (".json", ".yaml")

_TYPES: Final = ("", "b", "c", "u", "p")
_HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NO_PERMISSIONS: Final = "none"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """As the specification spells it, in camel case."""


class DeviceNode(_Part, frozen=True):
    """A device node; the node's own device has what is left out."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Part, frozen=True):
    """A bind mount."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Part, frozen=True):
    """A program that is run when a container starts or ends."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Edits(_Part, frozen=True):
    """What a container gets."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    net_devices: tuple[dict[str, str], ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[Mount, ...] = ()
    intel_rdt: dict[str, Any] | None = None
    additional_gids: tuple[int, ...] = ()


class Device(_Part, frozen=True):
    """A device and its edits."""

    name: str
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


class Specification(_Part, frozen=True):
    """A whole file; ``container_edits`` are those of every container that has one of its devices."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...]
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


def parse(data: bytes, *, is_json: bool) -> Specification:
    """Return what a file says.

    Raises:
        InvalidArgument: what is wrong with it.
    """
    try:
        found = msgspec.convert(_without_nulls(_load(data, is_json=is_json)), Specification)
    except msgspec.ValidationError as error:
        raise InvalidArgument(str(error)) from None
    _check(found)
    return found


def _load(data: bytes, *, is_json: bool) -> Any:
    if is_json:
        try:
            return json.loads(data)
        except ValueError as error:
            raise InvalidArgument(f"no JSON: {error}") from None
    import yaml  # a daemon on a node without such files does without it

    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidArgument("no YAML: " + " ".join(str(error).split())) from None


def _without_nulls(value: Any) -> Any:
    """Take what is written as nothing for what is left out, as the programs do that write these files."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _check(found: Specification) -> None:
    version = found.cdi_version.removeprefix("v")
    if version not in VERSIONS:
        raise InvalidArgument(f"cdiVersion {found.cdi_version!r} is not known: {', '.join(VERSIONS)} are")
    if not names.is_kind(found.kind):
        raise InvalidArgument(f"kind {found.kind!r} is not of the form vendor.com/class")
    if not found.devices:
        raise InvalidArgument("it has no devices")
    seen: set[str] = set()
    for device in found.devices:
        if not names.is_device(device.name) or device.name in seen:
            raise InvalidArgument(f"device {device.name!r} is there twice, or that is no name of a device")
        seen.add(device.name)
    for edits in all_edits(found):
        _check_edits(edits)
    needed = max(_features(found), default=VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(needed):
        raise InvalidArgument(f"it has fields of version {needed}, but says that it is of {version}")


def all_edits(found: Specification) -> Iterator[Edits]:
    """Yield the edits of a file, the common ones first."""
    yield found.container_edits
    for device in found.devices:
        yield device.container_edits


def _check_edits(edits: Edits) -> None:
    for entry in (*edits.env, *(entry for hook in edits.hooks for entry in hook.env)):
        if entry.find("=") < 1 or "\0" in entry:
            raise InvalidArgument(f"{entry.partition('=')[0]!r} is no environment variable: NAME=value is")
    for node in edits.device_nodes:
        _path("deviceNodes path", node.path)
        if node.host_path:
            _path("deviceNodes hostPath", node.host_path)
        wrong = set(node.permissions) - set("rwm") and node.permissions != NO_PERMISSIONS
        if node.type not in _TYPES or wrong:
            raise InvalidArgument(
                f"device node {node.path!r} has type {node.type!r} and permissions {node.permissions!r}"
            )
        _ids("major and minor", (node.major, node.minor), 2**31 - 1)
        _ids("uid and gid", (node.uid or 0, node.gid or 0), 2**32 - 2)
    for mount in edits.mounts:
        _path("mounts containerPath", mount.container_path)
        if not mount.host_path:
            raise InvalidArgument(f"the mount at {mount.container_path!r} has no hostPath")
    for hook in edits.hooks:
        _path("hooks path", hook.path)
        if hook.hook_name not in _HOOKS or (hook.timeout or 0) < 0:
            raise InvalidArgument(
                f"there is no hook {hook.hook_name!r} with a timeout of {hook.timeout or 0}"
            )
    _ids("additionalGids", edits.additional_gids, 2**32 - 2)


def _path(field: str, path: str) -> None:
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise InvalidArgument(f"{field} {path!r} is not an absolute path without '..'")


def _ids(field: str, values: tuple[int, ...], most: int) -> None:
    if any(not 0 <= value <= most for value in values):
        raise InvalidArgument(f"{field} {', '.join(map(str, values))}: must be from 0 to {most}")


def _features(found: Specification) -> Iterator[str]:
    """Yield the version that each newer feature came with (SPEC.md, "Released versions")."""
    if found.annotations or any(device.annotations for device in found.devices):
        yield "0.6.0"
    if "." in found.kind.partition("/")[2]:
        yield "0.6.0"
    if any(re.match(r"\d", device.name) for device in found.devices):
        yield "0.5.0"
    for edits in all_edits(found):
        if any(mount.type for mount in edits.mounts):
            yield "0.4.0"
        if any(node.host_path for node in edits.device_nodes):
            yield "0.5.0"
        if edits.intel_rdt is not None or edits.additional_gids:
            yield "0.7.0"
        if edits.net_devices:
            yield "1.1.0"
