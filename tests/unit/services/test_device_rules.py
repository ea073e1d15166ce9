from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.model.cgroup import ALLOW_ALL, DeviceRule
from shim.model.container import ContainerConfig, ContainerMetadata, ContainerSpec, Device
from shim.model.edits import DeviceNode, Edits
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.security import ContainerSecurity, User
from shim.services import device_rules


def spec(*edited: DeviceNode, **fields: Any) -> ContainerSpec:
    return ContainerSpec(
        id="c",
        sandbox_id="s",
        config=ContainerConfig(ContainerMetadata("c"), ImageSpec("i"), **fields),
        image_id="i",
        image_ref="i",
        user=User(0, 0),
        log_path="",
        cgroup="/c",
        stop_signal=15,
        rootfs=Rootfs((), "", ""),
        argv=("x",),
        cwd="/",
        env=(),
        created_at_ns=0,
        edits=Edits(edited),
    )


def test_every_container_may_make_nodes_and_use_those_of_every_dev() -> None:
    rules = device_rules.of_container(spec())
    assert rules == device_rules.DEFAULT
    assert {rule for rule in rules if rule.major == -1} == {
        DeviceRule(True, "b", access="m"),
        DeviceRule(True, "c", access="m"),
    }
    assert DeviceRule(True, "c", 1, 3, "rwm") in rules
    assert DeviceRule(True, "c", 136, -1, "rwm") in rules


@pytest.mark.parametrize(("asked", "access"), [("r", "r"), ("rw", "rw"), ("", "rwm")])
def test_a_device_has_the_permissions_asked_for(asked: str, access: str) -> None:
    rules = device_rules.of_container(spec(devices=(Device("/dev/x", "/dev/null", asked),)))
    assert rules == (*device_rules.DEFAULT, DeviceRule(True, "c", 1, 3, access))


def test_a_directory_stands_for_its_devices(tmp_path: Path) -> None:
    (tmp_path / "no-device").touch()
    rules = device_rules.of_container(spec(devices=(Device("/dev/d", str(tmp_path), "r"),)))
    assert rules == device_rules.DEFAULT
    rules = device_rules.of_container(spec(devices=(Device("/dev/d", "/dev", "r"),)))
    assert DeviceRule(True, "c", 1, 3, "r") in rules


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", Path("/etc/passwd")):
        with pytest.raises(InvalidArgument, match=str(path)):
            device_rules.of_container(spec(devices=(Device("/dev/x", str(path)),)))


def test_a_privileged_container_may_use_all() -> None:
    assert device_rules.of_container(spec(security=ContainerSecurity(privileged=True))) == ALLOW_ALL


def test_devices_of_cdi_have_their_permissions() -> None:
    nodes = (
        DeviceNode("/dev/a", "c", 10, 1, 0o600, 0, 0, "rw"),
        DeviceNode("/dev/b", "b", 10, 2, 0o600, 0, 0, ""),
        DeviceNode("/dev/p", "p", 0, 0, 0o600, 0, 0, "rw"),
    )
    assert device_rules.of_container(spec(*nodes))[len(device_rules.DEFAULT) :] == (
        DeviceRule(True, "c", 10, 1, "rw"),
    )
