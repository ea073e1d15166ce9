from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, Unimplemented
from shim.model import edits
from shim.model.mount import Propagation, Volume
from shim.model.security import User
from shim.services.cdi import files
from shim.services.cdi.library import Found
from shim.services.cdi.resolve import Resolved, resolve

USER = User(1000, 1001, (1001,))
COMMON = files.Edits(env=("A=common",), additional_gids=(44, 0))
PATH = "/etc/cdi/v.yaml"


def found(*devices: files.Edits, common: files.Edits | None = None, path: str = PATH) -> list[Found]:
    made = tuple(files.Device(str(number), each) for number, each in enumerate(devices))
    specification = files.Specification("1.0.0", "v.com/c", made, common or files.Edits())
    return [Found(path, specification, device) for device in made]


def of(common: files.Edits | None = None, **fields: Any) -> Resolved:
    return resolve(found(files.Edits(**fields), common=common), USER)


def node(**fields: Any) -> edits.DeviceNode:
    return of(device_nodes=(files.DeviceNode(**fields),)).edits.devices[0]


def test_nothing_asked_is_nothing() -> None:
    assert resolve([], USER) == Resolved()


def test_common_edits_come_once_and_before_the_devices() -> None:
    two = found(files.Edits(env=("A=1",)), files.Edits(env=("A=2",), additional_gids=(7,)), common=COMMON)
    other = found(files.Edits(env=("B=1",)), common=COMMON, path="/run/cdi/w.yaml")
    result = resolve([two[1], *other, two[0]], USER)
    assert result.env == ("A=common", "A=2", "A=common", "B=1", "A=1")
    assert result.gids == (44, 7, 44)


def test_the_node_fills_in_what_is_left_out() -> None:
    made = node(path="/dev/vendor", host_path="/dev/null")
    mode = os.stat("/dev/null").st_mode & 0o7777
    assert made == edits.DeviceNode("/dev/vendor", "c", 1, 3, mode, 1000, 1001, "rwm")
    assert node(path="/dev/null", permissions="none").access == ""


def test_what_is_said_counts() -> None:
    fields = {
        "type": "b",
        "major": 8,
        "minor": 1,
        "file_mode": 0o100640,
        "permissions": "r",
        "uid": 0,
        "gid": 6,
    }
    made = node(path="/dev/x", host_path="/nowhere", **fields)
    assert made == edits.DeviceNode("/dev/x", "b", 8, 1, 0o640, 0, 6, "r")
    assert node(path="/dev/x", host_path="/nowhere", type="u", major=8).mode == 0o666
    assert node(path="/dev/x", host_path="/nowhere", type="u", major=8).type == "c"


def test_a_fifo_has_no_numbers(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    made = node(path="/dev/pipe", host_path=str(tmp_path / "pipe"))
    assert (made.type, made.major, made.minor, made.mode) == ("p", 0, 0, 0o600)
    assert node(path="/dev/pipe", type="p", major=3, host_path="/nowhere").major == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "/dev/no-such-device"},
        {"path": "/dev/x", "host_path": "/etc/passwd"},
        {"path": "/dev/null", "type": "b"},
    ],
)
def test_a_device_that_the_node_lacks_is_an_error(fields: dict[str, str]) -> None:
    with pytest.raises(FailedPrecondition, match=PATH):
        node(**fields)


def test_of_nodes_at_one_path_the_last_counts() -> None:
    nodes = tuple(files.DeviceNode("/dev/x", type="c", major=major) for major in (10, 11))
    assert [each.major for each in of(device_nodes=nodes).edits.devices] == [11]


def test_a_mount_becomes_a_volume(tmp_path: Path) -> None:
    mount = files.Mount(str(tmp_path), "/v", ("ro", "nosuid", "nodev", "rbind", "rslave"))
    assert of(mounts=(mount,)).edits.volumes == (
        Volume(
            "/v",
            str(tmp_path),
            True,
            propagation=Propagation.HOST_TO_CONTAINER,
            mount_options=("nosuid", "nodev"),
        ),
    )
    recursive = of(mounts=(files.Mount(str(tmp_path), "/v", ("rro",)),)).edits.volumes[0]
    assert (recursive.readonly, recursive.recursive_read_only) == (True, True)


def test_a_missing_source_of_a_mount_is_an_error_and_never_made(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(FailedPrecondition, match=f"{PATH}.*{missing}"):
        of(mounts=(files.Mount(str(missing), "/v"),))
    assert not missing.exists()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mounts": (files.Mount("/", "/v", type="tmpfs"),)}, "'tmpfs'"),
        ({"mounts": (files.Mount("/", "/v", ("size=3",)),)}, "'size=3'"),
        ({"hooks": (files.Hook("poststop", "/bin/x"),)}, "poststop hook /bin/x"),
        ({"net_devices": ({"name": "eth1"},)}, "netDevices"),
        ({"intel_rdt": {"closID": "x"}}, "intelRdt"),
    ],
)
def test_what_is_not_done_is_refused_with_the_file(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Unimplemented, match=f"{PATH}.*{named}"):
        of(**fields)
    with pytest.raises(Unimplemented, match=f"{PATH}.*{named}"):
        of(common=files.Edits(**fields))


def test_hooks_are_kept_in_order() -> None:
    hooks = (
        files.Hook("createContainer", "/bin/a", ("a", "b"), ("X=1",), 5),
        files.Hook("prestart", "/bin/c"),
    )
    assert of(hooks=hooks).edits.hooks == (
        edits.Hook("createContainer", "/bin/a", ("a", "b"), ("X=1",), 5),
        edits.Hook("prestart", "/bin/c", ("/bin/c",), (), 0),
    )
