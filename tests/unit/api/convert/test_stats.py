from shim._proto import api_pb2 as cri
from shim.api.convert.stats import encode_container_stats, encode_filesystem
from shim.model.container import ContainerConfig, ContainerMetadata, ContainerSpec
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.security import User
from shim.model.stats import CpuStats, FilesystemUsage, MemoryStats
from shim.services.views import ContainerStatsView

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


def test_numbers_and_attributes() -> None:
    usage = FilesystemUsage(9, "/var/lib", 4096, 2)
    message = encode_container_stats(ContainerStatsView(SPEC, CpuStats(9, 12), MEMORY, usage))
    assert message.attributes.metadata == cri.ContainerMetadata(name="web", attempt=1)
    assert dict(message.attributes.labels) == {"a": "b"}
    assert (message.cpu.timestamp, message.cpu.usage_core_nano_seconds.value) == (9, 12)
    assert message.memory.working_set_bytes.value == 80
    assert message.memory.available_bytes.value == 920
    assert message.swap.swap_usage_bytes.value == 4
    assert message.writable_layer == encode_filesystem(usage)
    assert message.writable_layer.fs_id.mountpoint == "/var/lib"


def test_what_is_not_known_is_absent_not_zero() -> None:
    message = encode_container_stats(ContainerStatsView(SPEC, None, None, None))
    assert message.attributes.id == "c"
    assert not any(message.HasField(name) for name in ("cpu", "memory", "swap", "writable_layer"))


def test_without_a_limit_nothing_is_said_to_be_available() -> None:
    unlimited = MemoryStats(9, 100, 80, 50, 0, 3, 1)
    message = encode_container_stats(ContainerStatsView(SPEC, None, unlimited, None))
    assert not message.memory.HasField("available_bytes")
