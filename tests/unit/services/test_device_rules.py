from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.model.cgroup import ALLOW_ALL, DeviceRule
from shim.model.container import ContainerConfig, ContainerMetadata, Device
from shim.model.image import ImageSpec
from shim.model.security import ContainerSecurity
from shim.services import device_rules


def config(**fields: Any) -> ContainerConfig:
    return ContainerConfig(ContainerMetadata("c"), ImageSpec("i"), **fields)


def test_every_container_may_make_nodes_and_use_those_of_every_dev() -> None:
    rules = device_rules.of_container(config())
    assert rules == device_rules.DEFAULT
    assert {rule for rule in rules if rule.major == -1} == {
        DeviceRule(True, "b", access="m"),
        DeviceRule(True, "c", access="m"),
    }
    assert DeviceRule(True, "c", 1, 3, "rwm") in rules
    assert DeviceRule(True, "c", 136, -1, "rwm") in rules


@pytest.mark.parametrize(("asked", "access"), [("r", "r"), ("rw", "rw"), ("", "rwm")])
def test_a_device_has_the_permissions_asked_for(asked: str, access: str) -> None:
    rules = device_rules.of_container(config(devices=(Device("/dev/x", "/dev/null", asked),)))
    assert rules == (*device_rules.DEFAULT, DeviceRule(True, "c", 1, 3, access))


def test_a_directory_stands_for_its_devices(tmp_path: Path) -> None:
    (tmp_path / "no-device").touch()
    rules = device_rules.of_container(config(devices=(Device("/dev/d", str(tmp_path), "r"),)))
    assert rules == device_rules.DEFAULT
    rules = device_rules.of_container(config(devices=(Device("/dev/d", "/dev", "r"),)))
    assert DeviceRule(True, "c", 1, 3, "r") in rules


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", Path("/etc/passwd")):
        with pytest.raises(InvalidArgument, match=str(path)):
            device_rules.of_container(config(devices=(Device("/dev/x", str(path)),)))


def test_a_privileged_container_may_use_all() -> None:
    assert device_rules.of_container(config(security=ContainerSecurity(privileged=True))) == ALLOW_ALL
