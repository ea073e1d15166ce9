"""Which driver makes the cgroups of this node.

It must be the kubelet's: where systemd is the first process and has the cgroups to itself, both let it make
them, or it would undo what others write. ``auto`` follows that.
"""

from __future__ import annotations

import logging
from typing import Final

from shim.cgroups import systemd
from shim.cgroups.driver import CgroupfsDriver
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import FailedPrecondition

log = logging.getLogger(__name__)

AUTO: Final = "auto"


def driver(wanted: str, hierarchy: Hierarchy, own_parent: str) -> CgroupfsDriver:
    """Return the driver. Blocking.

    Args:
        wanted: ``auto``, ``systemd`` or ``cgroupfs``.
        hierarchy: where cgroups are.
        own_parent: parent of pods that come without one.

    Raises:
        FailedPrecondition: systemd is wanted, and cannot be had; it is said why.
    """
    if wanted == CgroupfsDriver.driver:
        return CgroupfsDriver(hierarchy, own_parent)
    lack = systemd.lack(hierarchy)
    if not lack:
        return systemd.SystemdDriver(hierarchy, own_parent)
    if wanted != AUTO:
        raise FailedPrecondition(
            f"cgroup.driver is systemd, but {lack}: set it to cgroupfs, and the kubelet's cgroupDriver"
        )
    if systemd.is_init():
        log.warning("cgroups are made by this program, not by systemd: %s", lack)
    return CgroupfsDriver(hierarchy, own_parent)
