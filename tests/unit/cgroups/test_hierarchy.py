import pytest

from shim.cgroups import hierarchy
from shim.errors import Unavailable
from shim.kernel import proc
from shim.model.cgroup import CgroupJoin


def mounts(*lines: str) -> list[proc.MountInfo]:
    return [
        proc.MountInfo(i, 1, "0:1", "/", point, (), (), fstype, "cgroup", tuple(options.split(",")))
        for i, (fstype, point, options) in enumerate(line.split() for line in lines)
    ]


def test_version_2() -> None:
    found = hierarchy.detect(mounts("cgroup2 /sys/fs/cgroup rw,nsdelegate"))
    assert (found.mode, found.join("/p/x")) == ("v2", CgroupJoin((), "/sys/fs/cgroup/p/x"))
    assert found.directory("memory", "/p/x") == "/sys/fs/cgroup/p/x"


def test_controllers_that_share_a_mount_are_entered_once() -> None:
    found = hierarchy.detect(
        mounts(
            "cgroup /c/cpu,cpuacct rw,cpu,cpuacct",
            "cgroup /c/memory rw,memory",
            "cgroup2 /c/unified rw",
            "cgroup /elsewhere rw,memory",
        )
    )
    assert found.mode == "hybrid"
    assert found.join("/x") == CgroupJoin(("/c/cpu,cpuacct/x/tasks", "/c/memory/x/tasks"), "/c/unified/x")
    assert found.mounts() == ["/c/cpu,cpuacct", "/c/memory", "/c/unified"]
    assert found.directory("pids", "/x") is None


def test_a_named_hierarchy_alone_is_no_version_1() -> None:
    found = hierarchy.detect(mounts("cgroup /c/systemd rw,xattr,name=systemd", "cgroup2 /c rw"))
    assert (found.mode, found.unified) == ("v2", "/c")


def test_a_machine_without_cgroups_is_told_what_to_mount() -> None:
    with pytest.raises(Unavailable, match="mount cgroup2"):
        hierarchy.detect(mounts("proc /proc rw"))
