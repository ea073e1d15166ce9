import dataclasses

from shim._proto import api_pb2 as cri
from shim.api.convert import stats
from shim.api.convert.stats import encode_filesystem
from shim.model.container import ContainerConfig, ContainerMetadata, ContainerSpec
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import User
from shim.model.stats import (
    CpuStats,
    FilesystemUsage,
    InterfaceStats,
    IoStats,
    MemoryStats,
    NetworkStats,
    Pressure,
    PressureLine,
)
from shim.services.views import ContainerStatsView, SandboxStatsView

SPEC = ContainerSpec(
    id="c",
    sandbox_id="s",
    config=ContainerConfig(ContainerMetadata("web", 1), ImageSpec("i"), labels={"a": "b"}),
    image_id="i",
    image_ref="i",
    user=User(0, 0),
    log_path="",
    cgroup="",
    stop_signal=15,
    rootfs=Rootfs((), "", ""),
    argv=(),
    cwd="",
    env=(),
    created_at_ns=1,
)
MEMORY = MemoryStats(9, 100, 80, 50, 1000, 3, 1, 4)
PRESSURE = Pressure(PressureLine(3000, 1.5, 1.0, 0.5), PressureLine(2000, 0.5, 0.25, 0.0))


def decoded(view: ContainerStatsView) -> cri.ContainerStats:
    numbers = stats.encode_container_numbers(view).SerializeToString()
    return cri.ContainerStats.FromString(stats.container_attributes(view.spec) + numbers)


def test_numbers_and_attributes() -> None:
    usage = FilesystemUsage(9, "/var/lib", 4096, 2)
    message = decoded(ContainerStatsView(SPEC, CpuStats(9, 12), MEMORY, usage))
    assert message.attributes.metadata == cri.ContainerMetadata(name="web", attempt=1)
    assert dict(message.attributes.labels) == {"a": "b"}
    assert (message.cpu.timestamp, message.cpu.usage_core_nano_seconds.value) == (9, 12)
    assert message.memory.working_set_bytes.value == 80
    assert message.memory.available_bytes.value == 920
    assert message.swap.swap_usage_bytes.value == 4
    assert message.writable_layer == encode_filesystem(usage)
    assert message.writable_layer.fs_id.mountpoint == "/var/lib"


def test_what_is_not_known_is_absent_not_zero() -> None:
    message = decoded(ContainerStatsView(SPEC, None, None, None))
    assert message.attributes.id == "c"
    assert not any(message.HasField(name) for name in ("cpu", "memory", "swap", "writable_layer"))


def test_without_a_limit_nothing_is_said_to_be_available() -> None:
    unlimited = MemoryStats(9, 100, 80, 50, 0, 3, 1)
    message = decoded(ContainerStatsView(SPEC, None, unlimited, None))
    assert not message.memory.HasField("available_bytes")


def test_pressure_is_told_of_each_resource() -> None:
    memory = dataclasses.replace(MEMORY, pressure=PRESSURE)
    cpu, io = CpuStats(9, 12, 5, PRESSURE), IoStats(8, PRESSURE)
    message = decoded(ContainerStatsView(SPEC, cpu, memory, None, io))
    wanted = cri.PsiStats(
        Full=cri.PsiData(Total=2000, Avg10=0.5, Avg60=0.25),
        Some=cri.PsiData(Total=3000, Avg10=1.5, Avg60=1.0, Avg300=0.5),
    )
    assert (message.cpu.psi, message.memory.psi, message.io.psi) == (wanted, wanted, wanted)
    assert (message.cpu.usage_nano_cores.value, message.io.timestamp) == (5, 8)


def test_swap_that_is_left_is_told_where_it_is_limited() -> None:
    def swap(memory: MemoryStats) -> cri.SwapUsage:
        return decoded(ContainerStatsView(SPEC, None, memory, None)).swap

    assert not swap(MEMORY).HasField("swap_available_bytes")
    assert swap(dataclasses.replace(MEMORY, swap_limit_bytes=10)).swap_available_bytes.value == 6
    none = swap(dataclasses.replace(MEMORY, swap_bytes=0, swap_allowed=False))
    assert none.HasField("swap_available_bytes")
    assert none.swap_available_bytes.value == 0


def sandbox(view: SandboxStatsView) -> cri.PodSandboxStats:
    containers = [
        stats.container_attributes(each.spec) + stats.encode_container_numbers(each).SerializeToString()
        for each in view.containers
    ]
    numbers = stats.encode_sandbox_numbers(view)
    return cri.PodSandboxStats.FromString(
        stats.join_sandbox(stats.sandbox_attributes(view.spec), numbers, containers)
    )


POD = SandboxSpec(
    id="s",
    config=SandboxConfig(SandboxMetadata("web", "u", "ns"), labels={"c": "d"}),
    handler="",
    created_at_ns=1,
    cgroup_driver="cgroupfs",
    cgroup_parent="/p",
    network="builtin",
)


def test_a_sandbox_is_told_with_its_containers_and_every_interface() -> None:
    network = NetworkStats(7, InterfaceStats("eth0", 1, 2, 3, 4, 5, 6, 7, 8), (InterfaceStats("net1", 9),))
    member = ContainerStatsView(SPEC, CpuStats(9, 12), MEMORY, None)
    message = sandbox(SandboxStatsView(POD, CpuStats(9, 13), MEMORY, None, network, 5, 4, (member,)))
    assert (message.attributes.metadata.name, dict(message.attributes.labels)) == ("web", {"c": "d"})
    assert message.linux.cpu.usage_core_nano_seconds.value == 13
    assert (message.linux.process.timestamp, message.linux.process.process_count.value) == (5, 4)
    default = message.linux.network.default_interface
    assert (default.name, default.rx_bytes.value, default.rx_errors.value) == ("eth0", 1, 3)
    assert (default.tx_bytes.value, default.tx_errors.value) == (5, 7)
    assert [each.name for each in message.linux.network.interfaces] == ["net1"]
    assert list(message.linux.containers) == [decoded(member)]


def test_of_a_sandbox_that_is_not_ready_nothing_is_told_but_who_it_is() -> None:
    message = sandbox(SandboxStatsView(POD))
    assert message.attributes.id == "s"
    assert message.linux == cri.LinuxPodSandboxStats()
