import dataclasses
from collections import Counter

from shim._proto import api_pb2 as cri
from shim.api.convert import metrics
from shim.model.container import ContainerConfig, ContainerMetadata, ContainerSpec, ContainerStatus
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.resources import Resources
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import User
from shim.model.stats import (
    CgroupDetails,
    CgroupUsage,
    CpuStats,
    DeviceIo,
    FilesystemCapacity,
    HugePages,
    InterfaceStats,
    IoStats,
    MemoryStats,
    NetworkStats,
    Pressure,
    PressureLine,
    ProcessStats,
)
from shim.services.views import ContainerMetricsView, ContainerView, SandboxMetricsView

S = 1_000_000_000
NOW = 1_700_000_000 * S
PRESSURE = Pressure(PressureLine(3 * S, 1.0, 1.0, 1.0), PressureLine(2 * S, 1.0, 1.0, 1.0))
SPEC = ContainerSpec(
    id="c1",
    sandbox_id="s1",
    config=ContainerConfig(
        ContainerMetadata("app", 1), ImageSpec("sha256:1", user_specified_image="app:latest")
    ),
    image_id="i",
    image_ref="i",
    user=User(0, 0),
    log_path="",
    cgroup="/kubepods/pod1/c1",
    stop_signal=15,
    rootfs=Rootfs((), "", ""),
    argv=(),
    cwd="",
    env=(),
    created_at_ns=1,
)
MEMORY = MemoryStats(NOW, 100, 80, 50, 1000, 3, 1, 4, 0, True, 45, 5, 11, 20, 9, PRESSURE)
CGROUP = CgroupDetails(
    usage=CgroupUsage(CpuStats(NOW, 7 * S, 1, PRESSURE), MEMORY, IoStats(NOW, PRESSURE)),
    user_ns=5 * S,
    system_ns=2 * S,
    periods=10,
    throttled_periods=4,
    throttled_ns=S,
    memory_max_bytes=120,
    limit_hits=6,
    oom_kills=1,
    tasks=12,
    tasks_max=100,
    devices=(DeviceIo(254, 0, 4096, 8192, 1, 2, "/dev/vda"), DeviceIo(7, 0, 1, 0, 1, 0, "/dev/loop0")),
    huge_pages=(HugePages("2MB", 2 << 20, 4 << 20),),
)
RESOURCES = Resources(cpu_period_us=50_000, cpu_quota_us=10_000, memory_limit_bytes=1000)
CONTAINER = ContainerMetricsView(
    ContainerView(SPEC, ContainerStatus(started_at_ns=5 * S, resources=RESOURCES)),
    CGROUP,
    ProcessStats(3, 20, 2, 1024),
    8192,
)
POD = SandboxMetricsView(
    SandboxSpec(
        id="s1",
        config=SandboxConfig(SandboxMetadata("web", "u1", "default")),
        handler="",
        created_at_ns=1,
        cgroup_driver="cgroupfs",
        cgroup_parent="/kubepods/pod1",
        network="builtin",
    ),
    NOW,
    FilesystemCapacity("/dev/vda1", 1000, 100, 90),
    None,
    NetworkStats(NOW, InterfaceStats("eth0", 1, 2, 3, 4, 5, 6, 7, 8), (InterfaceStats("net1"),)),
    (CONTAINER,),
)


def decoded(view: SandboxMetricsView) -> cri.PodSandboxMetrics:
    return cri.PodSandboxMetrics.FromString(metrics.encode_sandbox_metrics(view))


def values(found: list[cri.Metric]) -> dict[tuple[str, ...], int]:
    """Return values by name and the labels beyond the base ones."""
    base = len(metrics.BASE_LABELS)
    return {(each.name, *each.label_values[base:]): each.value.value for each in found}


def test_every_metric_of_the_tables_is_told_with_the_labels_of_its_descriptor() -> None:
    message = decoded(POD)
    all_of_them = [*message.metrics, *message.container_metrics[0].metrics]
    known = {each.name: each for each in metrics.descriptors()}
    assert {each.name for each in all_of_them} == set(known)
    for each in all_of_them:
        assert len(each.label_values) == len(known[each.name].label_keys)
        assert each.timestamp == NOW
    assert all(each.help for each in known.values())


def test_no_series_is_told_twice() -> None:
    message = decoded(POD)
    series = Counter(
        (each.name, *each.label_values) for each in [*message.metrics, *message.container_metrics[0].metrics]
    )
    assert [name for name, count in series.items() if count > 1] == []


def test_labels_say_whose_it_is() -> None:
    message = decoded(POD)
    assert message.pod_sandbox_id == "s1"
    assert message.container_metrics[0].container_id == "c1"
    assert list(message.metrics[0].label_values[:6]) == ["/kubepods/pod1", "s1", "", "default", "web", ""]
    labels = message.container_metrics[0].metrics[0].label_values
    assert list(labels) == ["/kubepods/pod1/c1", "c1", "app:latest", "default", "web", "app"]


def test_values_are_in_the_units_of_their_names() -> None:
    found = values(list(decoded(POD).container_metrics[0].metrics))
    assert found["container_last_seen",] == NOW // S
    assert found["container_start_time_seconds",] == 5
    assert found["container_cpu_usage_seconds_total", "total"] == 7
    assert found["container_cpu_user_seconds_total",] == 5
    assert found["container_cpu_system_seconds_total",] == 2
    assert found["container_cpu_cfs_throttled_seconds_total",] == 1
    assert found["container_memory_working_set_bytes",] == 80
    assert found["container_memory_failures_total", "pgmajfault", "hierarchy"] == 1
    assert found["container_fs_usage_bytes", "/dev/vda1"] == 8192
    assert found["container_fs_writes_bytes_total", "/dev/vda"] == 8192
    assert found["container_blkio_device_usage_total", "/dev/vda", "254", "0", "Read"] == 4096
    assert found["container_hugetlb_usage_bytes", "2MB"] == 2 << 20
    assert found["container_pressure_io_waiting_seconds_total",] == 3
    assert found["container_pressure_memory_stalled_seconds_total",] == 2
    assert found["container_ulimits_soft", "max_open_files"] == 1024
    assert found["container_spec_cpu_quota",] == 10_000


def test_counters_are_told_apart_from_gauges() -> None:
    kinds = {each.name: each.metric_type for each in decoded(POD).container_metrics[0].metrics}
    assert kinds["container_cpu_usage_seconds_total"] == cri.COUNTER
    assert kinds["container_memory_usage_bytes"] == cri.GAUGE
    counters = {name for name, kind in kinds.items() if kind == cri.COUNTER}
    named_so = {name for name in kinds if name.endswith(("_total", "_failcnt"))}
    assert counters == named_so - {"container_fs_inodes_total"}


def test_every_interface_has_its_own_series() -> None:
    found = values(list(decoded(POD).metrics))
    assert found["container_network_receive_bytes_total", "eth0"] == 1
    assert found["container_network_transmit_errors_total", "eth0"] == 7
    assert found["container_network_transmit_packets_dropped_total", "eth0"] == 8
    assert found["container_network_receive_bytes_total", "net1"] == 0


def test_what_does_not_apply_is_not_told() -> None:
    status = ContainerStatus(started_at_ns=1, resources=Resources(memory_limit_bytes=-1))
    plain = CgroupDetails(usage=CgroupUsage(CpuStats(NOW, 0), None, None))
    view = ContainerMetricsView(ContainerView(SPEC, status), plain, ProcessStats(), 0)
    names = {
        each.name: each.value.value
        for each in decoded(dataclasses.replace(POD, network=None, containers=(view,)))
        .container_metrics[0]
        .metrics
    }
    assert names["container_spec_memory_limit_bytes"] == 0
    assert names["container_spec_cpu_shares"] == 1024
    absent = ("_cfs_", "_pressure_", "_quota", "container_memory_usage", "max_usage", "ulimits", "hugetlb")
    assert [name for name in names for part in absent if part in name] == []
    assert decoded(dataclasses.replace(POD, network=None)).metrics == []
