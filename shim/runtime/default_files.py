"""What every container finds in its root besides the image: mounts, devices, links. As containerd has it.

Source: OCI runtime specification, config-linux.md, "Default Filesystems" and "Default Devices".
"""

from __future__ import annotations

from typing import Final

from shim.kernel import mount
from shim.runtime.steps_mounts import MountNew

# (path, ``c``, ``b`` or ``p``, major, minor, permission bits, uid, gid)
DeviceNode = tuple[str, str, int, int, int, int, int]

PLAIN: Final = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC

DEVICES: Final[tuple[DeviceNode, ...]] = tuple(
    (f"/dev/{name}", "c", major, minor, 0o666, 0, 0)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
LINKS: Final = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/core", "/proc/kcore"),
)

MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def early_mounts(*, readonly_sys: bool) -> tuple[MountNew, ...]:
    """Return what is mounted before the root is entered, in order; each belongs to the namespaces joined."""
    sys_attributes = PLAIN | (mount.MOUNT_ATTR_RDONLY if readonly_sys else 0)
    return (
        MountNew("tmpfs", "tmpfs", "/dev", mount.MOUNT_ATTR_NOSUID, ("mode=755", "size=65536k")),
        MountNew(
            "devpts",
            "devpts",
            "/dev/pts",
            mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC,
            ("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        MountNew("mqueue", "mqueue", "/dev/mqueue", PLAIN, ()),
        MountNew("sysfs", "sysfs", "/sys", sys_attributes, ()),
    )
