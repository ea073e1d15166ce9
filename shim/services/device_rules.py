"""What a container may do with devices, from what was asked. As containerd and runc have it.

Every container may make any device node, which by itself opens nothing, and use those that it finds in every
/dev. Beyond these it may use what it was given, with the permissions asked for. A privileged one may use all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shim.model.cgroup import ALLOW_ALL, DeviceRule
from shim.model.container import ContainerConfig, ContainerSpec
from shim.runtime.default_files import DEVICES
from shim.services import host_devices

# No permissions at all would be a node that is there for nothing.
_DEFAULT_ACCESS: Final = "rwm"

DEFAULT: Final[tuple[DeviceRule, ...]] = (
    DeviceRule(True, "c", access="m"),
    DeviceRule(True, "b", access="m"),
    *(DeviceRule(True, node[1], node[2], node[3]) for node in DEVICES),
    DeviceRule(True, "c", 5, 1),  # /dev/console
    DeviceRule(True, "c", 5, 2),  # /dev/ptmx
    DeviceRule(True, "c", 136),  # /dev/pts/N
)


def of_container(spec: ContainerSpec) -> tuple[DeviceRule, ...]:
    """Return the rules of a container. Blocking, for a short time: it looks at the node's devices.

    Raises:
        InvalidArgument: a device asked for is none, or is missing.
    """
    if spec.config.security.privileged:
        return ALLOW_ALL
    edited = (
        DeviceRule(True, each.type, each.major, each.minor, each.access)
        for each in spec.edits.devices
        if each.type in ("b", "c") and each.access
    )
    return (*DEFAULT, *_asked(spec.config), *edited)


def _asked(config: ContainerConfig) -> Iterator[DeviceRule]:
    for device in config.devices:
        access = device.permissions or _DEFAULT_ACCESS
        for _, kind, major, minor, *_ in host_devices.asked(device):
            yield DeviceRule(True, kind, major, minor, access)
