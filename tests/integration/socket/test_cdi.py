"""Devices by the Container Device Interface: what a file of the node gives to a container."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri

pytestmark = pytest.mark.root

NOBODYS = {"type": "c", "major": 1, "minor": 12}  # no driver has it
FORBIDDEN, ALLOWED = "Operation not permitted", "No such device"


@pytest.fixture(autouse=True)
def no_files_left(daemon: Any) -> Iterator[None]:
    yield
    for path in (daemon.scratch / "cdi").glob("*/*"):
        path.unlink()


def write(daemon: Any, name: str = "etc/vendor.json", common: Any = None, **devices: Any) -> Path:
    """Write a file about devices of ``vendor.com/dev``: names, and what each edits."""
    path: Path = daemon.scratch / "cdi" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"name": key, "containerEdits": edits} for key, edits in devices.items()]
    value = {"cdiVersion": "1.0.0", "kind": "vendor.com/dev", "devices": entries}
    path.write_text(json.dumps(value | {"containerEdits": common or {}}))
    return path


def config_of(daemon: Any, *names: str, user: int | None = None) -> cri.ContainerConfig:
    config = daemon.container_config()
    for name in names:
        config.CDI_devices.add(name=f"vendor.com/dev={name}")
    if user is not None:
        config.linux.security_context.run_as_user.value = user
        config.linux.security_context.run_as_group.value = user
    return config


def start(daemon: Any, *names: str, **options: Any) -> str:
    return daemon.run(daemon.run_pod(), config=config_of(daemon, *names, **options))


def refused(daemon: Any, config: cri.ContainerConfig, *, when_started: bool = False) -> tuple[str, str]:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        (daemon.run if when_started else daemon.create)(pod, config=config)
    return caught.value.code().name, caught.value.details() or ""


def test_a_device_brings_all_that_its_file_says(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "file").write_text("vendor")
    (tmp_path / "one").write_text("one")
    node = {"path": "/dev/vendor0", **NOBODYS, "fileMode": 0o640, "permissions": "r"}
    mounts = [
        {"hostPath": f"{tmp_path}/lib", "containerPath": "/vendor/lib", "options": ["ro", "nosuid", "nodev"]},
        {"hostPath": f"{tmp_path}/one", "containerPath": "/etc/one"},
    ]
    edits = {
        "deviceNodes": [node],
        "mounts": mounts,
        "env": ["VENDOR=0", "PATH=/bin:/x"],
        "additionalGids": [44],
    }
    write(daemon, common={"env": ["VENDOR=all", "COMMON=yes"]}, a=edits)
    id_ = start(daemon, "a", user=1000)
    env = daemon.exec(id_, "sh", "-c", "echo $VENDOR $COMMON $PATH; id -G; cat /vendor/lib/file /etc/one")
    first, groups, last = env.splitlines()
    assert (first, last) == ("0 yes /bin:/x", "vendorone")
    assert "44" in groups.split()
    listed = daemon.exec(id_, "ls", "-ln", "/dev/vendor0").split()
    assert (listed[0], listed[2:6]) == ("crw-r-----", ["1000", "1000", "1,", "12"])
    mounted = daemon.exec(id_, "sh", "-c", "cat /proc/mounts | busybox grep /vendor/lib")
    assert {"ro", "nosuid", "nodev"} <= set(mounted.split()[3].split(","))
    told = daemon.exec(id_, "sh", "-c", "(: < /dev/vendor0) 2>&1; (: > /dev/vendor0) 2>&1; true").splitlines()
    assert ALLOWED in told[0]
    assert FORBIDDEN in told[1]


def test_permissions_of_a_node_are_those_of_the_file(daemon: Any) -> None:
    nodes = [
        {"path": f"/dev/{name}", **NOBODYS, "minor": minor, "permissions": permissions}
        for name, minor, permissions in (("r", 12, "r"), ("all", 13, ""), ("none", 14, "none"))
    ]
    write(daemon, a={"deviceNodes": nodes})
    id_ = start(daemon, "a")
    script = "for n in r all none; do (: < /dev/$n) 2>&1; (: > /dev/$n) 2>&1; done; true"
    told = [line.rsplit(": ", 1)[1] for line in daemon.exec(id_, "sh", "-c", script).splitlines()]
    assert [FORBIDDEN in line for line in told] == [False, True, False, False, True, True]


def test_devices_are_asked_for_by_annotations_too_and_in_yaml(daemon: Any) -> None:
    path = write(daemon, "run/v.json", a={"env": ["A=1"]}, b={"env": ["B=1"]})
    yaml = "cdiVersion: 0.5.0\nkind: other.com/x\ndevices:\n- name: '0'\n  containerEdits: {env: [C=1]}\n"
    (path.parent / "w.yaml").write_text(yaml)
    config = config_of(daemon, "a")
    config.annotations["cdi.k8s.io/plugin_1"] = "vendor.com/dev=b,other.com/x=0"
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert daemon.exec(id_, "sh", "-c", "echo $A$B$C") == "111\n"
    answer = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id_))
    assert dict(answer.status.annotations) == dict(config.annotations)


def test_files_are_read_anew(daemon: Any) -> None:
    write(daemon, a={"env": ["A=first"]})
    assert daemon.exec(start(daemon, "a"), "sh", "-c", "echo $A") == "first\n"
    write(daemon, a={"env": ["A=second"]})
    assert daemon.exec(start(daemon, "a"), "sh", "-c", "echo $A") == "second\n"
    write(daemon, "run/over.json", a={"env": ["A=third"]})
    id_ = start(daemon, "a")
    assert daemon.exec(id_, "sh", "-c", "echo $A") == "third\n"
    daemon.restart()
    assert daemon.exec(id_, "sh", "-c", "echo $A") == "third\n"


def test_an_unknown_device_is_named_with_those_there_are(daemon: Any) -> None:
    write(daemon, a={"env": ["A=1"]})
    (daemon.scratch / "cdi" / "etc" / "broken.json").write_text("{")
    code, text = refused(daemon, config_of(daemon, "a", "b"))
    assert code == "INVALID_ARGUMENT"
    assert "'vendor.com/dev=b'" in text
    assert "vendor.com/dev=a" in text
    assert "broken.json cannot be used" in text
    assert daemon.exec(start(daemon, "a"), "sh", "-c", "echo $A") == "1\n"
    assert refused(daemon, config_of(daemon, "/bad"))[0] == "INVALID_ARGUMENT"


def test_what_cannot_be_done_is_refused_with_its_file(daemon: Any) -> None:
    write(
        daemon,
        hook={"hooks": [{"hookName": "poststop", "path": "/bin/true"}]},
        missing={"mounts": [{"hostPath": "/no/such/path", "containerPath": "/x"}]},
        node={"deviceNodes": [{"path": "/dev/no-such"}]},
    )
    for name, code, named in (
        ("hook", "UNIMPLEMENTED", "poststop hook /bin/true"),
        ("missing", "FAILED_PRECONDITION", "/no/such/path"),
        ("node", "FAILED_PRECONDITION", "/dev/no-such"),
    ):
        told = refused(daemon, config_of(daemon, name))
        assert told[0] == code
        assert named in told[1]
        assert "vendor.json" in told[1]
    assert not os.path.exists("/no/such/path")


def hook(moment: str, script: str, **fields: Any) -> dict[str, Any]:
    return {"hookName": moment, "path": "/bin/sh", "args": ["sh", "-ec", script], "env": ["X=y"], **fields}


STATE = 'state=$(cat); at=$(echo "$state" | sed \'s/.*"bundle": "\\([^"]*\\)".*/\\1/\');'


@pytest.mark.parametrize("pid", ["CONTAINER", "POD", "NODE"])
def test_hooks_are_run_where_they_belong(daemon: Any, tmp_path: Path, pid: str) -> None:
    tmp_path.chmod(0o755)
    script = (
        f'{STATE} echo "$state" > {tmp_path}/NAME.state; cp $at/config.json {tmp_path}/NAME.config;'
        f" readlink /proc/self/ns/mnt /proc/self/ns/net /proc/self/ns/pid > {tmp_path}/NAME.ns;"
        f" env > {tmp_path}/NAME.env; if [ NAME = c ]; then echo made > $at/fs/made-by-hook; fi;"
    )
    hooks = [
        hook("createContainer", f"{script.replace('NAME', 'c')} echo c >> {tmp_path}/order"),
        hook("createRuntime", f"{script.replace('NAME', 'r')} echo r >> {tmp_path}/order"),
        hook("prestart", f"cat > /dev/null; echo p >> {tmp_path}/order"),
    ]
    write(daemon, a={"hooks": hooks, "env": ["E=hooks"]})
    pod = daemon.pod_config()
    pod.linux.security_context.namespace_options.pid = cri.NamespaceMode.Value(pid)
    config = config_of(daemon, "a")
    config.linux.security_context.namespace_options.pid = cri.NamespaceMode.Value(pid)
    config.linux.security_context.readonly_rootfs = True
    id_ = daemon.run(daemon.run_pod(pod), config=config)
    assert daemon.exec(id_, "cat", "/made-by-hook") == "made\n"
    assert (tmp_path / "order").read_text().split() == ["p", "r", "c"]
    of_node = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid")]
    runtime, container = ((tmp_path / f"{name}.ns").read_text().split() for name in "rc")
    assert [runtime[0], runtime[2]] == of_node
    assert container[0] == os.readlink(f"/proc/{daemon.pid(id_)}/ns/mnt")
    assert container[1] == os.readlink(f"/proc/{daemon.pid(id_)}/ns/net") != runtime[1]
    state = json.loads((tmp_path / "c.state").read_text())
    assert (state["id"], state["status"]) == (id_, "creating")
    assert "X=y" in (tmp_path / "c.env").read_text().split()
    described = json.loads((tmp_path / "r.config").read_text())
    assert "E=hooks" in described["process"]["env"]
    assert not os.path.exists(os.path.join(state["bundle"], "config.json"))
    if pid == "CONTAINER":
        assert daemon.exec(id_, "cat", "/proc/1/cmdline") == "sleep\x001000\x00"


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (hook("createContainer", "echo no such luck >&2; exit 3"), "exit code 3: no such luck"),
        (hook("createRuntime", "kill -9 $$"), "signal 9"),
        (hook("prestart", "sleep 60", timeout=1), "longer than 1 s"),
        ({"hookName": "createContainer", "path": "/no/such/hook"}, "No such file"),
    ],
)
def test_a_hook_that_fails_ends_the_start(daemon: Any, made: dict[str, Any], named: str) -> None:
    write(daemon, a={"hooks": [made]})
    code, text = refused(daemon, config_of(daemon, "a"), when_started=True)
    assert code == "FAILED_PRECONDITION"
    assert f"cannot run the {made['hookName']} hook {made['path']}" in text
    assert named in text
    container = daemon.runtime.ListContainers(cri.ListContainersRequest()).containers[0]
    status = daemon.status(container.id)
    assert (status.state, status.reason) == (cri.CONTAINER_EXITED, "StartError")
    assert named in status.message
