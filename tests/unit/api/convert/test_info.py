import json

from shim.api.convert import info
from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerStatus,
    EnvVar,
    ProcessRef,
)
from shim.model.image import Image, ImageConfig, ImageSpec, Platform
from shim.model.mount import Propagation, Rootfs, Volume
from shim.model.resources import Resources
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec, SandboxStatus
from shim.model.security import User
from shim.services.views import ContainerView, SandboxDetails, SandboxView

SANDBOX = SandboxView(
    SandboxSpec(
        id="s1",
        config=SandboxConfig(SandboxMetadata("p", "u", "n"), hostname="web-1"),
        handler="",
        created_at_ns=1,
        cgroup_driver="cgroupfs",
        cgroup_parent="/p",
        network="builtin",
        pins={"net": "/run/netns/x", "ipc": "/i", "uts": "/u", "pid": "/p"},
    ),
    SandboxStatus(ready_at_ns=2),
)
CONTAINER = ContainerView(
    ContainerSpec(
        id="c1",
        sandbox_id="s1",
        config=ContainerConfig(
            ContainerMetadata("web"),
            ImageSpec("i"),
            envs=(EnvVar("A", b"\xff"), EnvVar("B", b"text")),
            volumes=(Volume("/data", "/srv", readonly=True, propagation=Propagation.HOST_TO_CONTAINER),),
        ),
        image_id="sha256:1",
        image_ref="r",
        user=User(7, 8, (9,)),
        log_path="/l",
        cgroup="/p/c1",
        stop_signal=15,
        rootfs=Rootfs(("/a",), "/upper", "/work"),
        argv=("node", "app.js"),
        cwd="/app",
        env=(b"A=\xff", b"B=text"),
        created_at_ns=1,
    ),
    ContainerStatus(
        started_at_ns=2, process=ProcessRef(4242, 1, "b"), resources=Resources(memory_limit_bytes=5)
    ),
)


def test_a_container_is_told_as_an_oci_runtime_would() -> None:
    value = json.loads(info.container_info(CONTAINER, SANDBOX)["info"])
    assert (value["pid"], value["sandboxID"]) == (4242, "s1")
    spec = value["runtimeSpec"]
    assert spec["process"]["args"] == ["node", "app.js"]
    assert spec["process"]["env"] == ["A=\\xff", "B=text"]
    assert spec["process"]["user"] == {"uid": 7, "gid": 8, "additionalGids": [9]}
    assert spec["hostname"] == "web-1"
    assert spec["linux"]["cgroupsPath"] == "/p/c1"
    assert spec["linux"]["resources"]["memory"] == {"limit": 5}
    assert spec["mounts"] == [
        {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "rslave", "ro"]}
    ]
    assert {"type": "network", "path": "/run/netns/x"} in spec["linux"]["namespaces"]
    assert [each["value"] for each in value["config"]["envs"]] == ["\\xff", "text"]


def test_a_container_that_has_ended_has_no_pid() -> None:
    ended = ContainerView(CONTAINER.spec, ContainerStatus(2, 3, process=ProcessRef(4242, 1, "b")))
    assert json.loads(info.container_info(ended, None)["info"])["pid"] == 0


def test_a_sandbox_is_told_with_its_namespaces() -> None:
    value = json.loads(info.sandbox_info(SandboxDetails(SANDBOX, (CONTAINER,)))["info"])
    assert (value["pid"], value["containers"]) == (0, ["c1"])
    assert value["runtimeSpec"]["linux"]["namespaces"][0] == {"type": "network", "path": "/run/netns/x"}
    assert value["config"]["metadata"] == {"name": "p", "uid": "u", "namespace": "n"}


def test_an_image_is_told_with_its_configuration() -> None:
    image = Image(
        "sha256:1",
        (),
        (),
        ("c1", "c2"),
        ("d1", "d2"),
        1,
        ImageConfig(cmd=("sh",)),
        Platform("linux", "arm64"),
    )
    value = json.loads(info.image_info(image)["info"])
    assert value["chainID"] == "c2"
    assert value["imageSpec"]["architecture"] == "arm64"
    assert value["imageSpec"]["config"]["Cmd"] == ["sh"]
    assert value["imageSpec"]["rootfs"]["diff_ids"] == ["d1", "d2"]
