"""Numbers against the truth: what a process did, what the kernel's files say, what the socket tells.

Readings on both sides lie a little apart, and the kernel keeps its counters per processor: so numbers are
compared within 2 %, once what they count stands still.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from shim.cgroups import hierarchy, tree
from shim.kernel import proc

pytestmark = pytest.mark.root

MIB = 1 << 20
HIERARCHY = hierarchy.detect(proc.mountinfo())
V1 = bool(HIERARCHY.v1)
SHARE = 0.02


def near(value: int, truth: int, slack: int = 0) -> bool:
    return abs(value - truth) <= max(truth * SHARE, slack)


class Truth:
    """The kernel's own files of a container's or pod's cgroup."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, controller: str, name: str) -> str:
        directory = HIERARCHY.directory(controller, self._path)
        assert directory is not None
        return Path(directory, name).read_text()

    def field(self, controller: str, name: str, key: str) -> int:
        lines = (line.split() for line in self.read(controller, name).splitlines())
        return next(int(line[1]) for line in lines if line[0] == key)

    def cpu_ns(self) -> int:
        if V1:
            return int(self.read("cpuacct", "cpuacct.usage"))
        return self.field("cpu", "cpu.stat", "usage_usec") * 1000

    def usage(self) -> int:
        return int(self.read("memory", "memory.usage_in_bytes" if V1 else "memory.current"))

    def memory(self, v1: str, v2: str) -> int:
        return self.field("memory", "memory.stat", v1 if V1 else v2)


def stats_of(daemon: Any, id_: str) -> cri.ContainerStats:
    return daemon.runtime.ContainerStats(cri.ContainerStatsRequest(container_id=id_)).stats


def pod_of(daemon: Any, id_: str) -> cri.PodSandboxStats:
    return daemon.runtime.PodSandboxStats(cri.PodSandboxStatsRequest(pod_sandbox_id=id_)).stats


def metrics_of(daemon: Any, pod_id: str, id_: str = "") -> dict[tuple[str, ...], int]:
    """Return values by name and labels beyond the six that all have, of a container or of its pod."""
    answer = daemon.runtime.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest())
    pod = next(each for each in answer.pod_metrics if each.pod_sandbox_id == pod_id)
    found = pod.metrics
    if id_:
        found = next(each.metrics for each in pod.container_metrics if each.container_id == id_)
    return {(each.name, *each.label_values[6:]): each.value.value for each in found}


def test_cpu_time_is_what_was_used(daemon: Any) -> None:
    work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; exec sleep 1000"
    pod = daemon.run_pod()
    id_ = daemon.run(pod, "sh", "-c", work)
    first = stats_of(daemon, id_)  # long before anything was sampled in the background
    assert first.cpu.HasField("usage_nano_cores")
    daemon.until(lambda: daemon.output(id_) == ["done"])
    truth = Truth(daemon.cgroup(id_))
    ticks = Path(f"/proc/{daemon.pid(id_)}/stat").read_text().rsplit(")", 1)[1].split()
    by_process_ns = (int(ticks[11]) + int(ticks[12])) * 10**9 // os.sysconf("SC_CLK_TCK")
    assert by_process_ns > 10**8
    daemon.until(lambda: near(stats_of(daemon, id_).cpu.usage_core_nano_seconds.value, truth.cpu_ns()))
    usage_ns = stats_of(daemon, id_).cpu.usage_core_nano_seconds.value
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    assert near(usage_ns, by_process_ns, 5 * tick_ns)  # the process's own count has ticks only
    found = metrics_of(daemon, pod[0], id_)
    assert 0 <= found["container_cpu_usage_seconds_total", "total"] - usage_ns // 10**9 <= 1
    pod_ns = pod_of(daemon, pod[0]).linux.cpu.usage_core_nano_seconds.value
    assert near(pod_ns, usage_ns)


def test_the_rate_of_cpu_time_is_of_the_time_between_two_readings(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), "sh", "-c", "while true; do :; done")
    truth = Truth(daemon.cgroup(id_))
    before = stats_of(daemon, id_).cpu
    assert before.usage_nano_cores.value > 0
    readings = [before]
    while readings[-1].timestamp - before.timestamp < 1.2e9:
        readings.append(stats_of(daemon, id_).cpu)
    after = readings.pop()
    assert after.usage_core_nano_seconds.value <= truth.cpu_ns()

    def rate_since(reading: cri.CpuUsage) -> int:
        used_ns = after.usage_core_nano_seconds.value - reading.usage_core_nano_seconds.value
        return int(used_ns * 1e9 / (after.timestamp - reading.timestamp))

    # The daemon reads by itself too: then the rate is since that reading, just before or after one of these.
    earliest = cri.CpuUsage(timestamp=daemon.status(id_).started_at)
    assert any(near(after.usage_nano_cores.value, rate_since(r), 3 * 10**7) for r in (earliest, *readings))
    assert 0 < after.usage_nano_cores.value < 1.1e9


def test_memory_and_page_cache_are_what_was_taken(daemon: Any) -> None:
    """24 MiB of a process's own, 40 MiB of file cache by writing a file."""
    pod = daemon.run_pod()
    take = "x=$(dd if=/dev/zero bs=1M count=24 | busybox tr '\\0' x); echo ${#x}; sleep 1000; true"
    config = daemon.container_config("sh", "-c", f"dd if=/dev/zero of=/big bs=1M count=40; {take}")
    config.linux.resources.memory_limit_in_bytes = 400 * MIB
    id_ = daemon.run(pod, config=config)
    daemon.until(lambda: str(24 * MIB) in daemon.output(id_))
    truth = Truth(daemon.cgroup(id_))

    def agree() -> bool:
        memory = stats_of(daemon, id_).memory
        inactive = truth.memory("total_inactive_file", "inactive_file")
        return (
            near(memory.usage_bytes.value, truth.usage())
            and near(memory.working_set_bytes.value, truth.usage() - inactive, 64 << 10)
            and near(memory.rss_bytes.value, truth.memory("total_rss", "anon"))
            and near(memory.page_faults.value, truth.memory("total_pgfault", "pgfault"))
        )

    daemon.until(agree)
    memory = stats_of(daemon, id_).memory
    assert memory.usage_bytes.value >= 64 * MIB
    assert memory.rss_bytes.value >= 24 * MIB
    assert memory.available_bytes.value == 400 * MIB - memory.working_set_bytes.value
    assert stats_of(daemon, id_).swap.swap_usage_bytes.value == 0
    found = metrics_of(daemon, pod[0], id_)
    assert near(found["container_memory_cache",], truth.memory("total_cache", "file"))
    assert found["container_memory_cache",] >= 40 * MIB
    assert near(found["container_memory_rss",], truth.memory("total_rss", "anon"))
    assert near(found["container_memory_working_set_bytes",], memory.working_set_bytes.value, 256 << 10)
    assert found["container_memory_max_usage_bytes",] >= memory.usage_bytes.value
    assert found["container_spec_memory_limit_bytes",] == 400 * MIB
    in_pod = pod_of(daemon, pod[0]).linux.memory
    assert near(in_pod.working_set_bytes.value, memory.working_set_bytes.value, 256 << 10)


def test_files_and_io_are_what_was_written(daemon: Any) -> None:
    pod = daemon.run_pod()
    script = (
        "mkdir /d; for i in 0 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/d/$i bs=100k count=10 conv=fsync;"
        " done; echo written; exec sleep 1000"
    )
    id_ = daemon.run(pod, "sh", "-c", script)
    daemon.until(lambda: "written" in daemon.output(id_))
    layer = stats_of(daemon, id_).writable_layer
    daemon.until(lambda: stats_of(daemon, id_).writable_layer.timestamp > layer.timestamp)
    layer = stats_of(daemon, id_).writable_layer
    upper = layer.fs_id.mountpoint
    du = int(subprocess.run(["du", "-s", "-B1", upper], capture_output=True, check=True).stdout.split()[0])
    count = sum(1 for _ in Path(upper).rglob("*"))
    assert near(layer.used_bytes.value, du, 8192)  # du counts the top itself
    assert layer.used_bytes.value >= 10_000_000
    assert layer.inodes_used.value == count > 10
    found = metrics_of(daemon, pod[0], id_)
    [device] = {key[1] for key in found if key[0] == "container_fs_usage_bytes"}
    logs = sum(each.stat().st_blocks * 512 for each in Path(daemon.status(id_).log_path).parent.iterdir())
    key, whole = ("container_fs_usage_bytes", device), layer.used_bytes.value + logs
    daemon.until(lambda: near(metrics_of(daemon, pod[0], id_)[key], whole))
    stat = os.statvfs(upper)
    assert found["container_fs_limit_bytes", device] == stat.f_blocks * stat.f_frsize
    assert found["container_fs_inodes_total", device] == stat.f_files
    truth = Truth(daemon.cgroup(id_))
    written = written_bytes(truth)
    again = metrics_of(daemon, pod[0], id_)
    told = sum(value for key, value in again.items() if key[0] == "container_fs_writes_bytes_total")
    assert near(told, written)


def written_bytes(truth: Truth) -> int:
    if V1:
        lines = truth.read("blkio", "blkio.throttle.io_service_bytes_recursive").splitlines()
        return sum(int(line.split()[2]) for line in lines if line.split()[1:2] == ["Write"])
    words = truth.read("io", "io.stat").split()
    return sum(int(word.partition("=")[2]) for word in words if word.startswith("wbytes="))


def test_traffic_is_what_went_through_the_interface(daemon: Any) -> None:
    pod = daemon.run_pod()
    listener = daemon.run(pod, "nc", "-l", "-p", "7000", "-e", "cat")
    daemon.until(lambda: ":1B58" in daemon.exec(listener, "sh", "-c", "cat /proc/net/tcp*"))
    status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0])).status
    talk = f"busybox nc -w 20 {status.network.ip} 7000 | busybox wc -c"
    send = f"dd if=/dev/zero bs=100k count=50 2>/dev/null | {talk}"
    assert int(daemon.in_netns("sh", "-c", send).stdout) > 0
    keeper = daemon.run(pod)

    def counters() -> dict[str, int]:
        fields = (
            daemon.exec(keeper, "sh", "-c", "cat /proc/net/dev | busybox grep eth0").split(":")[1].split()
        )
        return {"rx": int(fields[0]), "tx": int(fields[8])}

    def agree() -> bool:
        network, real = pod_of(daemon, pod[0]).linux.network.default_interface, counters()
        return near(network.rx_bytes.value, real["rx"]) and near(network.tx_bytes.value, real["tx"])

    daemon.until(agree)
    network = pod_of(daemon, pod[0]).linux.network
    assert network.default_interface.name == "eth0"
    assert network.default_interface.rx_bytes.value > 5_000_000
    enter = ["nsenter", f"--net={daemon.scratch}/netns/cri-shim-{pod[0]}"]
    shown = subprocess.run(
        [*enter, "ip", "-s", "-o", "link", "show", "eth0"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\\")
    received = next(int(shown[i + 1].split()[0]) for i, part in enumerate(shown) if "RX:" in part)
    assert near(network.default_interface.rx_bytes.value, received)
    found = metrics_of(daemon, pod[0])
    assert near(found["container_network_receive_bytes_total", "eth0"], received)


def test_processes_are_counted_with_what_they_hold(daemon: Any) -> None:
    pod = daemon.run_pod()
    id_ = daemon.run(pod, "sh", "-c", "sleep 1000 & sleep 1000 & nc -l -p 7001 & exec sleep 1000")
    daemon.until(lambda: metrics_of(daemon, pod[0], id_).get(("container_sockets",), 0) == 1)
    found = metrics_of(daemon, pod[0], id_)
    assert (found["container_processes",], found["container_threads",]) == (4, 4)
    pids = [int(pid) for pid in Truth(daemon.cgroup(id_)).read("pids", "cgroup.procs").split()]
    assert found["container_file_descriptors",] == sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    limits = Path(f"/proc/{daemon.pid(id_)}/limits").read_text().splitlines()
    soft = next(int(line.split()[3]) for line in limits if line.startswith("Max open files"))
    assert found["container_ulimits_soft", "max_open_files"] == soft
    process = pod_of(daemon, pod[0]).linux.process
    assert (process.process_count.value, process.timestamp > 0) == (4, True)


def test_pressure_is_told_where_the_kernel_has_it(daemon: Any) -> None:
    if not Path("/proc/pressure/cpu").exists():
        pytest.skip("this kernel has no pressure stall information")
    pod = daemon.run_pod()
    config = daemon.container_config("sh", "-c", "while true; do :; done & while true; do :; done")
    config.linux.resources.cpu_period, config.linux.resources.cpu_quota = 100_000, 20_000
    id_ = daemon.run(pod, config=config)
    daemon.until(lambda: stats_of(daemon, id_).cpu.psi.Some.Total > 10**8)
    told = stats_of(daemon, id_)
    line = Path(HIERARCHY.unified + daemon.cgroup(id_), "cpu.pressure").read_text().split()
    total_ns = int(line[4].partition("=")[2]) * 1000
    assert told.cpu.psi.Some.Total <= total_ns
    assert near(told.cpu.psi.Some.Total, total_ns, 10**9)
    assert told.memory.HasField("psi")
    assert told.io.psi.Some.Total >= told.io.psi.Full.Total
    held_back = ("container_cpu_cfs_throttled_periods_total",)
    daemon.until(lambda: metrics_of(daemon, pod[0], id_)[held_back] > 0)
    assert metrics_of(daemon, pod[0], id_)["container_spec_cpu_quota",] == 20_000


def test_a_pod_with_a_cgroup_of_a_kubelet_is_what_that_says(daemon: Any, kubelet_cgroup: str) -> None:
    config = daemon.pod_config()
    config.linux.cgroup_parent = kubelet_cgroup
    pod = daemon.run_pod(config)
    daemon.run(pod)
    truth = Truth(kubelet_cgroup)

    def agree() -> bool:
        told = pod_of(daemon, pod[0]).linux
        used_ns = told.cpu.usage_core_nano_seconds.value
        return near(told.memory.usage_bytes.value, truth.usage()) and near(used_ns, truth.cpu_ns())

    daemon.until(agree)
    assert len(pod_of(daemon, pod[0]).linux.containers) == 1


@pytest.fixture
def kubelet_cgroup(daemon: Any) -> Iterator[str]:
    """A cgroup that somebody else made for a pod."""
    path = f"/cri-shim-test-kubelet-{os.getpid()}/pod1"
    tree.make(HIERARCHY, path)
    yield path
    daemon.remove_all()
    tree.remove(HIERARCHY, path)


def test_numbers_of_what_is_not_there(daemon: Any) -> None:
    pod = daemon.run_pod()
    id_ = daemon.run(pod)
    daemon.stop(id_)
    stopped = stats_of(daemon, id_)
    assert stopped.attributes.id == id_
    assert not stopped.HasField("cpu")
    assert stopped.HasField("writable_layer")
    listed = daemon.runtime.ListContainerStats(cri.ListContainerStatsRequest()).stats
    assert id_ not in {each.attributes.id for each in listed}
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod[0]))
    assert not pod_of(daemon, pod[0]).linux.HasField("cpu")
    listed = daemon.runtime.ListPodSandboxStats(cri.ListPodSandboxStatsRequest()).stats
    assert pod[0] not in {each.attributes.id for each in listed}
