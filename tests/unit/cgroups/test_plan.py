import pytest

from shim.cgroups import plan
from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.resources import HugepageLimit, Resources

MIB = 1 << 20


def test_nothing_asked_writes_nothing() -> None:
    assert plan.plan_v1(Resources()) == plan.plan_v2(Resources()) == []


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (1024, 39), (262_144, 10_000), (0, 1), (1 << 40, 10_000)]
)
def test_weights(shares: int, weight: int) -> None:
    assert plan.cpu_weight(shares) == weight


@pytest.mark.parametrize(("shares", "written"), [(1, "2"), (2**54, "262144"), (2**63 - 1, "262144")])
def test_shares_are_what_the_kernel_can_have(shares: int, written: str) -> None:
    assert plan.plan_v1(Resources(cpu_shares=shares)) == [("cpu", "cpu.shares", written)]


def test_cpu_on_both_versions() -> None:
    asked = Resources(cpu_period_us=50_000, cpu_quota_us=25_000, cpu_shares=512, cpuset_cpus="0-1")
    assert plan.plan_v1(asked) == [
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpu", "cpu.cfs_quota_us", "25000"),
        ("cpuset", "cpuset.cpus", "0-1"),
    ]
    assert plan.plan_v2(asked) == [
        ("cpu", "cpu.weight", "20"),
        ("cpu", "cpu.max", "25000 50000"),
        ("cpuset", "cpuset.cpus", "0-1"),
    ]


def test_no_quota_is_minus_one_or_max() -> None:
    assert plan.plan_v1(Resources(cpu_quota_us=-1)) == [("cpu", "cpu.cfs_quota_us", "-1")]
    assert plan.plan_v2(Resources(cpu_quota_us=-1)) == [("cpu", "cpu.max", "max 100000")]


def test_memory_and_swap_never_cross_on_the_way() -> None:
    asked = Resources(memory_limit_bytes=200 * MIB, memory_swap_limit_bytes=300 * MIB)
    files = [[file for _, file, _ in plan.plan_v1(asked, now)] for now in (None, 100 * MIB, 400 * MIB)]
    limit, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    assert files == [[limit, both], [both, limit], [limit, both]]


def test_version_2_counts_swap_without_memory() -> None:
    asked = Resources(memory_limit_bytes=200 * MIB, memory_swap_limit_bytes=300 * MIB)
    assert plan.plan_v2(asked) == [
        ("memory", "memory.swap.max", str(100 * MIB)),
        ("memory", "memory.max", str(200 * MIB)),
    ]


@pytest.mark.parametrize("memory", [0, 400 * MIB])
def test_swap_that_cannot_be_is_refused(memory: int) -> None:
    with pytest.raises(InvalidArgument):
        plan.plan_v2(Resources(memory_limit_bytes=memory, memory_swap_limit_bytes=300 * MIB))


def test_huge_pages() -> None:
    asked = Resources(hugepage_limits=(HugepageLimit("2MB", 4096),))
    assert plan.plan_v1(asked) == [
        ("hugetlb", "hugetlb.2MB.limit_in_bytes", "4096"),
        ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", "4096"),
    ]
    assert plan.plan_v2(asked) == [
        ("hugetlb", "hugetlb.2MB.max", "4096"),
        ("hugetlb", "hugetlb.2MB.rsvd.max", "4096"),
    ]


def test_who_limits_memory_alone_gets_no_swap() -> None:
    for limit, v1, swap in ((MIB, str(MIB), "0"), (-1, "-1", "max")):
        asked = Resources(memory_limit_bytes=limit)
        assert ("memory", "memory.memsw.limit_in_bytes", v1) in plan.plan_v1(asked)
        assert ("memory", "memory.swap.max", swap) in plan.plan_v2(asked)


def test_files_of_version_2_are_refused_on_version_1() -> None:
    with pytest.raises(FailedPrecondition, match=r"memory\.high"):
        plan.plan_v1(Resources(unified={"memory.high": "1"}))


@pytest.mark.parametrize("name", ["../memory.max", "cgroup.procs", "memory/max.x", ".x", "nodot"])
def test_unified_names_only_files_of_controllers(name: str) -> None:
    with pytest.raises(InvalidArgument, match="unified"):
        plan.plan_v2(Resources(unified={name: "1"}))


def test_unified_has_the_last_word() -> None:
    writes = plan.plan_v2(Resources(memory_limit_bytes=MIB, unified={"memory.max": "max"}))
    assert writes[-1] == ("memory", "memory.max", "max")
