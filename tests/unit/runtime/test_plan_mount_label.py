"""Mounts with a label."""

from __future__ import annotations

from shim.runtime.plan_mount_label import label_mounts
from shim.runtime.steps_mounts import MountNew, MountOverlay, PivotRoot

LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def test_layers_and_memory_file_systems_get_it_and_nothing_else() -> None:
    steps = [
        MountOverlay(("/l",), "/u", "/w"),
        MountNew("tmpfs", "tmpfs", "/dev", 0, ("mode=755",)),
        MountNew("sysfs", "sysfs", "/sys", 0, ()),
        MountNew("devpts", "devpts", "/dev/pts", 0, ()),
        MountNew("mqueue", "mqueue", "/dev/mqueue", 0, ()),
        PivotRoot(),
    ]
    context = f"context={LABEL}"
    assert label_mounts(steps, LABEL) == [
        MountOverlay(("/l",), "/u", "/w", (context,)),
        MountNew("tmpfs", "tmpfs", "/dev", 0, ("mode=755", context)),
        steps[2],
        MountNew("devpts", "devpts", "/dev/pts", 0, (context,)),
        MountNew("mqueue", "mqueue", "/dev/mqueue", 0, (), LABEL),
        steps[5],
    ]
    assert label_mounts(steps, "") == steps
