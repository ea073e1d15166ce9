from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.services.cdi import files

GOOD_YAML = b"""
cdiVersion: 0.6.0
kind: vendor.com/class
annotations:
containerEdits:
  env: [COMMON=1]
devices:
- name: gpu0
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/null
      type: c
      fileMode: 0600
      permissions: rw
      uid: 7
    mounts:
    - {hostPath: /lib, containerPath: /vendor/lib, options: [ro, nosuid]}
    hooks:
    - hookName: createContainer
      path: /usr/bin/hook
      args: [hook, run]
      timeout: 5
"""


def spec(version: str = "1.0.0", kind: str = "v.com/c", name: str = "a", **edits: Any) -> dict[str, Any]:
    device = {"name": name, "containerEdits": edits}
    return {"cdiVersion": version, "kind": kind, "devices": [device]}


def parse(value: object) -> files.Specification:
    return files.parse(json.dumps(value).encode(), is_json=True)


def test_yaml_as_vendors_write_it() -> None:
    found = files.parse(GOOD_YAML, is_json=False)
    assert (found.kind, found.container_edits.env) == ("vendor.com/class", ("COMMON=1",))
    (device,) = found.devices
    (node,) = device.container_edits.device_nodes
    assert (node.host_path, node.file_mode, node.permissions, node.uid, node.gid) == (
        "/dev/null",
        0o600,
        "rw",
        7,
        None,
    )
    assert device.container_edits.mounts[0].options == ("ro", "nosuid")
    assert device.container_edits.hooks[0].timeout == 5


@pytest.mark.parametrize("version", files.VERSIONS)
def test_every_version_is_taken(version: str) -> None:
    assert parse(spec(version, env=["A=b"])).devices[0].container_edits.env == ("A=b",)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "object"),
        ({}, "cdiVersion"),
        (spec("0.2.0"), "'0.2.0' is not known"),
        (spec(kind="v.com"), "kind 'v.com'"),
        (spec() | {"devices": []}, "no devices"),
        (spec() | {"devices": spec()["devices"] * 2}, "there twice"),
        (spec(name="-"), "'-'"),
        (spec() | {"surprise": 1}, "surprise"),
        (spec(surprise=1), r"surprise.*\$\.devices\[0\]\.containerEdits"),
        (spec(env=["A"]), "'A' is no environment variable"),
        (spec(env=[1]), r"\.env\[0\]"),
        (spec(deviceNodes=[{"path": "dev/x"}]), "'dev/x' is not an absolute path"),
        (spec(deviceNodes=[{"path": "/dev/../x"}]), "not an absolute path"),
        (spec(deviceNodes=[{"path": "/dev/x", "type": "d"}]), "type 'd'"),
        (spec(deviceNodes=[{"path": "/dev/x", "permissions": "rx"}]), "permissions 'rx'"),
        (spec(deviceNodes=[{"path": "/dev/x", "major": -1}]), "major"),
        (spec(deviceNodes=[{"path": "/dev/x", "uid": 2**32}]), "uid"),
        (spec(mounts=[{"hostPath": "/x", "containerPath": "x"}]), "containerPath"),
        (spec(mounts=[{"hostPath": "", "containerPath": "/x"}]), "hostPath"),
        (spec(hooks=[{"hookName": "never", "path": "/x"}]), "'never'"),
        (spec(hooks=[{"hookName": "prestart", "path": "x"}]), "'x'"),
        (spec(hooks=[{"hookName": "prestart", "path": "/x", "timeout": -1}]), "-1"),
        (spec(additionalGids=[-1]), "additionalGids"),
        (spec("0.3.0", mounts=[{"hostPath": "/x", "containerPath": "/x", "type": "bind"}]), r"0\.4\.0"),
        (spec("0.4.0", deviceNodes=[{"path": "/x", "hostPath": "/y"}]), r"0\.5\.0"),
        (spec("0.4.0", name="0"), r"0\.5\.0"),
        (spec("0.5.0", kind="v.com/c.d"), r"0\.6\.0"),
        (spec("0.5.0") | {"annotations": {"a": "b"}}, r"0\.6\.0"),
        (spec("0.6.0", additionalGids=[5]), r"0\.7\.0"),
        (spec("1.0.0", netDevices=[{"hostInterfaceName": "a", "name": "b"}]), r"1\.1\.0"),
    ],
)
def test_what_is_wrong_is_said(value: object, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        parse(value)


@pytest.mark.parametrize(
    ("data", "is_json"),
    [
        (b"{", True),
        (b"\xff", True),
        (b"a: [", False),
        (b"\xff\xfe\xff", False),
        (b"!!python/x 1", False),
        (b"", False),
    ],
)
def test_what_cannot_be_read_is_an_error(data: bytes, is_json: bool) -> None:
    with pytest.raises(InvalidArgument):
        files.parse(data, is_json=is_json)


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_nothing_but_an_error_comes_of_nonsense(value: object) -> None:
    with pytest.raises(InvalidArgument):
        parse(value)
