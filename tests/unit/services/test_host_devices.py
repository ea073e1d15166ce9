import os

import pytest

from shim.errors import InvalidArgument
from shim.model.container import Device
from shim.services import host_devices


def test_what_every_container_has_is_not_made_twice() -> None:
    own, zero = Device("/dev/null", "/dev/null", "rwm"), Device("/dev/x", "/dev/zero", "r")
    found = host_devices.find((own, zero), every=False)
    status = os.stat("/dev/zero")
    assert [node[:4] for node in found] == [("/dev/x", "c", 1, 5)]
    assert found[0][4:] == (status.st_mode & 0o7777, status.st_uid, status.st_gid)


def test_another_device_may_take_the_place_of_a_default_one() -> None:
    found = host_devices.find((Device("/dev/full", "/dev/zero", "r"),), every=False)
    assert [node[:4] for node in found] == [("/dev/full", "c", 1, 5)]


@pytest.mark.parametrize(
    ("path", "named"), [("/dev/no-such", "No such file"), ("/etc/passwd", "not a device")]
)
def test_what_is_no_device_is_named(path: str, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named) as caught:
        host_devices.find((Device("/dev/x", path, "r"),), every=False)
    assert path in str(caught.value)
