import pytest

from shim.cgroups import plan, properties
from shim.cgroups.properties import INFINITY
from shim.model.resources import Resources


def limits(resources: Resources) -> dict[str, object]:
    return {name: value for name, (_, value) in properties.plan_limits(plan.plan_v2(resources))}


def test_each_limit_becomes_its_property() -> None:
    resources = Resources(
        cpu_shares=1024,
        cpu_quota_us=25_000,
        cpu_period_us=50_000,
        cpuset_cpus="0-1,9",
        cpuset_mems="0",
        memory_limit_bytes=64 << 20,
        memory_swap_limit_bytes=96 << 20,
        unified={"memory.high": "32M", "memory.oom.group": "1", "pids.max": "7", "io.weight": "default 50"},
    )
    assert limits(resources) == {
        "CPUWeight": 39,
        "CPUQuotaPerSecUSec": 500_000,
        "CPUQuotaPeriodUSec": 50_000,
        "AllowedCPUs": b"\x03\x02",
        "AllowedMemoryNodes": b"\x01",
        "MemoryMax": 64 << 20,
        "MemorySwapMax": 32 << 20,
        "MemoryHigh": 32 << 20,
        "TasksMax": 7,
        "IOWeight": 50,
    }


def test_no_limit_is_infinity() -> None:
    resources = Resources(cpu_quota_us=-1, memory_limit_bytes=-1, unified={"pids.max": "max"})
    assert limits(resources) == {
        "CPUQuotaPerSecUSec": INFINITY,
        "CPUQuotaPeriodUSec": 100_000,
        "MemoryMax": INFINITY,
        "MemorySwapMax": INFINITY,
        "TasksMax": INFINITY,
    }


def test_what_comes_last_counts() -> None:
    resources = Resources(memory_limit_bytes=1 << 20, unified={"memory.max": "2097152"})
    assert limits(resources)["MemoryMax"] == 2 << 20


def test_a_scope_is_ours_below_and_has_no_limit_of_its_own() -> None:
    scope = dict(properties.plan_scope("kubepods-pod1.slice", "text", 42, (), 252))
    assert scope["Slice"] == ("s", "kubepods-pod1.slice")
    assert scope["PIDs"] == ("au", [42])
    assert scope["Delegate"] == ("b", True)
    assert scope["TasksMax"] == ("t", INFINITY)
    writes = plan.plan_v2(Resources(unified={"pids.max": "3"}))
    limited = properties.plan_scope("a.slice", "text", 42, writes, 252)
    assert [value for name, value in limited if name == "TasksMax"] == [("t", 3)]


@pytest.mark.parametrize(
    ("version", "value", "told"), [(253, "1", True), (252, "1", False), (253, "0", False)]
)
def test_only_a_newer_systemd_keeps_a_group_that_is_killed_together(
    version: int, value: str, *, told: bool
) -> None:
    writes = plan.plan_v2(Resources(unified={"memory.oom.group": value}))
    scope = properties.plan_scope("a.slice", "text", 42, writes, version)
    assert (("OOMPolicy", ("s", "kill")) in scope) is told


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4k", 4096), ("1G", 1 << 30), ("max", INFINITY), ("x", None), ("", None)]
)
def test_sizes(text: str, size: int | None) -> None:
    assert properties.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "mask"),
    [("0", b"\x01"), ("8", b"\x00\x01"), ("1-2,4", b"\x16"), ("2-1", None), ("a", None), ("", None)],
)
def test_sets(text: str, mask: bytes | None) -> None:
    assert properties.parse_set(text) == mask
