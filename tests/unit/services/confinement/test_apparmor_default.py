"""The text of our AppArmor profile."""

from __future__ import annotations

import re

import pytest

from shim.services.confinement import apparmor_default


def test_what_the_nodes_profiles_share_is_included_where_it_is_there() -> None:
    assert "include" not in apparmor_default.text(set(), "unconfined")
    assert "abi <" not in apparmor_default.text(set(), "unconfined")
    whole = apparmor_default.text(set(apparmor_default.INCLUDES), "unconfined")
    assert "abi <abi/3.0>," in whole
    assert whole.count("include <") == 2


def test_the_daemon_may_signal_whatever_confines_it() -> None:
    assert 'signal (receive) peer="snap.shim"' in apparmor_default.text(set(), "snap.shim")


def written(path: str) -> bool:
    """Tell whether a path may be written, by what apparmor.d(5) says of patterns."""
    for line in apparmor_default.text(set(), "unconfined").splitlines():
        if match := re.match(r"  deny (/\S*) (\w+),", line):
            pattern = match[1].replace("**", "\0").replace("*", "[^/]*").replace("?", "[^/]")
            if "w" in match[2] and re.fullmatch(pattern.replace("\0", ".*"), path):
                return False
    return True


@pytest.mark.parametrize(
    "path",
    [
        *("/proc/sysrq-trigger", "/proc/kcore", "/proc/mtrr", "/proc/1", "/proc/irq/1/smp_affinity"),
        *("/proc/sys/vm/swappiness", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/shell"),
        *("/proc/sys/kernel/sysrq", "/proc/sys/key/x", "/proc/sysvipc/shm", "/proc/scsi/scsi", "/proc/syx/a"),
        *("/sys/firmware/acpi/x", "/sys/kernel/security/apparmor/.load", "/sys/module/x/parameters/y"),
        *("/sys/fs/bpf/x", "/sys/fs/cifs/x", "/sys/devices/virtual/powercap/x", "/sys/fuse/x"),
    ],
)
def test_what_would_change_the_node_is_not_written(path: str) -> None:
    assert not written(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/proc/1/attr/exec", "/proc/123/oom_score_adj", "/proc/sys/kernel/shmmax", "/etc/passwd", "/tmp/x"),
        *("/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/tasks"),
    ],
)
def test_what_is_the_containers_own_is_written(path: str) -> None:
    assert written(path)
