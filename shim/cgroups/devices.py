"""Limits a new cgroup to some devices: by the controller of version 1, else by a BPF program.

Version 1 passes a cgroup's list on to those below it, and version 2 runs the programs of every cgroup above:
either way a container cannot get out of it by cgroups of its own. Nothing is to be done when limits change
or the daemon starts again: list and program belong to the cgroup.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Sequence
from typing import Final

from shim.cgroups import device_plan
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import FailedPrecondition, KernelError
from shim.kernel import bpf, cgroupfs, proc
from shim.model.cgroup import DeviceRule

log = logging.getLogger(__name__)

# No right to; built without BPF on cgroups; no such program type.
_LACKS: Final = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def takes_programs() -> bool:
    """Tell whether this node takes BPF programs about devices, by loading one that is attached to nothing."""
    try:
        os.close(bpf.load_device_program(device_plan.plan_v2(())))
    except KernelError:
        return False
    return True


class DeviceGuard:
    """Puts rules on cgroups. Blocking; may be used by several threads.

    A node that is itself in a user namespace may do neither, and need not: nobody in there can make a device
    node, whatever a cgroup says. That is one warning; anywhere else what is lacking is an error.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._nested = proc.in_user_namespace()
        self._told = False

    def limit(self, path: str, rules: Sequence[DeviceRule]) -> None:
        """Limit a cgroup that has nothing below it yet.

        Raises:
            FailedPrecondition: the node cannot; it is said what it lacks.
            KernelError: the kernel refuses for another reason.
        """
        try:
            if device_plan.CONTROLLER in self._hierarchy.v1:
                self._by_controller(path, rules)
            else:
                self._by_program(path, rules)
        except FailedPrecondition as error:
            if not self._nested:
                raise
            if not self._told:
                log.warning("devices are limited by the user namespace of this node alone: %s", error)
            self._told = True

    def _by_controller(self, path: str, rules: Sequence[DeviceRule]) -> None:
        """Write what belongs into one file at one go: a dozen of them are opened otherwise."""
        directory = self._hierarchy.v1[device_plan.CONTROLLER] + path
        for name, writes in itertools.groupby(device_plan.plan_v1(rules), lambda write: write[1]):
            try:
                cgroupfs.write(os.path.join(directory, name), *(value for _, _, value in writes))
            except KernelError as error:
                if error.errno != errno.EPERM:
                    raise
                raise FailedPrecondition(
                    f"cannot limit the devices of cgroup {path!r}: {error}: a cgroup above it is denied that "
                    "device itself, or this program has no CAP_SYS_ADMIN"
                ) from None

    def _by_program(self, path: str, rules: Sequence[DeviceRule]) -> None:
        program = device_plan.plan_v2(rules)
        if not program:
            return
        try:
            fd = bpf.load_device_program(program)
            try:
                bpf.attach_to_cgroup(fd, self._hierarchy.unified + path)
            finally:
                os.close(fd)
        except KernelError as error:
            if error.errno not in _LACKS:
                raise
            raise FailedPrecondition(
                f"cannot limit the devices of cgroup {path!r}: this node has no devices controller of "
                f"version 1, and refuses a BPF program instead: {error}: that needs a kernel with "
                "CONFIG_CGROUP_BPF, and CAP_SYS_ADMIN"
            ) from None
