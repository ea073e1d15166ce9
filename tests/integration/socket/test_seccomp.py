"""Seccomp as a kubelet asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.socket.conftest import running, scratch_directory

pytestmark = pytest.mark.root

Code = grpc.StatusCode
NO_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
}


def write(path: Path, value: object) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def localhost(path: str) -> cri.SecurityProfile:
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref=path)


def container(daemon: Any, **security: Any) -> cri.ContainerConfig:
    config = daemon.container_config("sleep", "1000")
    for key, value in security.items():
        field = getattr(config.linux.security_context, key)
        if isinstance(value, cri.SecurityProfile):
            field.CopyFrom(value)
        else:
            setattr(config.linux.security_context, key, value)
    return config


def seccomp_of(daemon: Any, id_: str) -> str:
    lines = daemon.exec(id_, "cat", "/proc/1/status").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("Seccomp:"))


def mkdir(daemon: Any, id_: str) -> str:
    answer = daemon.runtime.ExecSync(cri.ExecSyncRequest(container_id=id_, cmd=["busybox", "mkdir", "/d"]))
    return answer.stderr.decode()


def test_a_profile_of_the_node_in_each_form(daemon: Any) -> None:
    path = write(daemon.scratch / "p.json", NO_MKDIR)
    pod = daemon.run_pod()
    for asked in (
        {"seccomp": localhost(path)},
        {"seccomp": localhost(f"localhost/{path}")},
        {"seccomp_profile_path": f"localhost/{path}"},
    ):
        id_ = daemon.run(pod, config=container(daemon, **asked))
        assert seccomp_of(daemon, id_) == "2"
        assert "No space left" in mkdir(daemon, id_)


def test_a_profile_stays_what_it_was_when_the_container_was_made(daemon: Any) -> None:
    path = write(daemon.scratch / "p.json", NO_MKDIR)
    pod = daemon.run_pod()
    id_ = daemon.create(pod, container(daemon, seccomp=localhost(path)))
    Path(path).unlink()
    daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    assert "No space left" in mkdir(daemon, id_)
    daemon.restart()
    assert "No space left" in mkdir(daemon, id_)
    assert len(list((daemon.root / "profiles").iterdir())) >= 1
    daemon.remove(pod[0])
    daemon.restart()
    assert list((daemon.root / "profiles").iterdir()) == []


def test_the_default_profile_and_none(daemon: Any) -> None:
    pod = daemon.run_pod()
    default = cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)
    unconfined = cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)
    for asked, expected in (
        ({"seccomp": default}, "2"),
        ({"seccomp_profile_path": "runtime/default"}, "2"),
        ({"seccomp": unconfined}, "0"),
        ({"seccomp": unconfined, "seccomp_profile_path": "runtime/default"}, "0"),
        ({}, "0"),
    ):
        id_ = daemon.run(pod, config=container(daemon, **asked))
        assert seccomp_of(daemon, id_) == expected
        assert mkdir(daemon, id_) == ""


def test_a_privileged_container_has_no_filter(daemon: Any) -> None:
    path = write(daemon.scratch / "p.json", NO_MKDIR)
    config = daemon.pod_config()
    config.linux.security_context.privileged = True
    id_ = daemon.run(
        daemon.run_pod(config), config=container(daemon, seccomp=localhost(path), privileged=True)
    )
    assert seccomp_of(daemon, id_) == "0"


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        ("", Code.INVALID_ARGUMENT, "no JSON"),
        ("{}", Code.INVALID_ARGUMENT, "defaultAction"),
        ({"defaultAction": "SCMP_ACT_FLY"}, Code.INVALID_ARGUMENT, "SCMP_ACT_FLY"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, Code.UNIMPLEMENTED, "SCMP_ACT_NOTIFY"),
        (NO_MKDIR | {"listenerPath": "/x"}, Code.UNIMPLEMENTED, "listenerPath"),
        (NO_MKDIR | {"flags": ["WAVE"]}, Code.INVALID_ARGUMENT, "WAVE"),
        (NO_MKDIR | {"architectures": ["VAX"]}, Code.INVALID_ARGUMENT, "VAX"),
    ],
)
def test_what_is_no_profile_is_refused_when_the_container_is_made(
    daemon: Any, content: Any, code: grpc.StatusCode, word: str
) -> None:
    path = write(daemon.scratch / "bad.json", content)
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, container(daemon, seccomp=localhost(path)))
    assert (caught.value.code(), word in caught.value.details()) == (code, True), caught.value.details()
    assert not daemon.runtime.ListContainers(cri.ListContainersRequest()).containers


@pytest.mark.parametrize(
    ("asked", "code", "word"),
    [
        ({"seccomp": localhost("/nonexistent.json")}, Code.FAILED_PRECONDITION, "/nonexistent.json"),
        ({"seccomp": localhost("/dev/null")}, Code.INVALID_ARGUMENT, "/dev/null"),
        ({"seccomp": localhost("p.json")}, Code.INVALID_ARGUMENT, "p.json"),
        ({"seccomp": localhost("")}, Code.INVALID_ARGUMENT, "localhost_ref"),
        ({"seccomp_profile_path": "secret/x"}, Code.INVALID_ARGUMENT, "secret/x"),
        (
            {"seccomp": cri.SecurityProfile(localhost_ref="/x")},
            Code.INVALID_ARGUMENT,
            "not of type Localhost",
        ),
    ],
)
def test_what_names_no_profile_is_refused(
    daemon: Any, asked: dict[str, Any], code: grpc.StatusCode, word: str
) -> None:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, container(daemon, **asked))
    assert (caught.value.code(), word in caught.value.details()) == (code, True), caught.value.details()


def test_what_counts_where_nothing_is_said_can_be_configured() -> None:
    settings = ("--set=seccomp.default=runtime_default", "--set=seccomp.log_denials=true")
    with running(scratch_directory(), *settings) as daemon:
        id_ = daemon.run(daemon.run_pod(), config=container(daemon))
        assert seccomp_of(daemon, id_) == "2"
        unconfined = cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)
        other = daemon.run(daemon.run_pod(), config=container(daemon, seccomp=unconfined))
        assert seccomp_of(daemon, other) == "0"
