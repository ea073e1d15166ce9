"""AppArmor as a kubelet asks for it: refusals everywhere, effects where the kernel has it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.services.confinement import apparmor

pytestmark = pytest.mark.root

Code = grpc.StatusCode
HOST = apparmor.look()
without = pytest.mark.skipif(HOST.enabled, reason="this node has AppArmor")
needs = pytest.mark.skipif(
    not HOST.enabled or apparmor.parser() is None, reason="no AppArmor here, or no apparmor_parser"
)

TEST_PROFILE = "cri-shim-test-deny-tmp"
TEXT = f"""
profile {TEST_PROFILE} flags=(attach_disconnected) {{
  file,
  signal,
  ptrace,
  network,
  capability,
  deny /tmp/** w,
}}
"""


def localhost(name: str) -> cri.SecurityProfile:
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref=name)


RUNTIME_DEFAULT = cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)
UNCONFINED = cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)


def container(daemon: Any, **security: Any) -> cri.ContainerConfig:
    config = daemon.container_config("sleep", "1000")
    context = config.linux.security_context
    for key, value in security.items():
        if isinstance(value, cri.SecurityProfile):
            getattr(context, key).CopyFrom(value)
        else:
            setattr(context, key, value)
    return config


def refused(daemon: Any, **security: Any) -> tuple[grpc.StatusCode, str]:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, container(daemon, **security))
    assert not daemon.runtime.ListContainers(cri.ListContainersRequest()).containers
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    "asked",
    [
        {"apparmor": localhost("no-such-profile")},
        {"apparmor": localhost("localhost/no-such-profile")},
        {"apparmor_profile": "localhost/no-such-profile"},
        {"apparmor": localhost("no-such-profile"), "apparmor_profile": "runtime/default"},
    ],
)
def test_a_profile_that_is_not_loaded_is_refused(daemon: Any, asked: dict[str, Any]) -> None:
    code, text = refused(daemon, **asked)
    assert code is Code.FAILED_PRECONDITION
    assert "no-such-profile" in text


@pytest.mark.parametrize(
    "asked",
    [
        {"apparmor": localhost("")},
        {"apparmor": cri.SecurityProfile(localhost_ref="x")},
        {"apparmor_profile": "x"},
        {"apparmor_profile": "secret/x"},
    ],
)
def test_what_names_no_profile_is_refused(daemon: Any, asked: dict[str, Any]) -> None:
    assert refused(daemon, **asked)[0] is Code.INVALID_ARGUMENT


def test_a_sandbox_names_profiles_in_the_same_forms(daemon: Any) -> None:
    config = daemon.pod_config()
    config.linux.security_context.apparmor.CopyFrom(localhost(""))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.run_pod(config)
    assert caught.value.code() is Code.INVALID_ARGUMENT


@without
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"apparmor": RUNTIME_DEFAULT},
        {"apparmor": UNCONFINED},
        {"apparmor_profile": "runtime/default"},
        {"apparmor_profile": "unconfined"},
    ],
)
def test_a_node_without_apparmor_runs_what_names_no_profile(daemon: Any, asked: dict[str, Any]) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, **asked))
    assert daemon.status(id_).state == cri.CONTAINER_RUNNING


@pytest.fixture(scope="module")
def profile() -> Iterator[str]:
    """A profile of the node's administrator."""
    parser = apparmor.parser()
    assert parser is not None
    subprocess.run([parser, "-K", "-r"], input=TEXT.encode(), check=True, capture_output=True)
    yield TEST_PROFILE
    subprocess.run([parser, "-K", "-R"], input=TEXT.encode(), check=True, capture_output=True)


def label(daemon: Any, id_: str) -> str:
    return str(daemon.exec(id_, "cat", "/proc/1/attr/current").strip("\0\n"))


def own_label(daemon: Any, id_: str) -> str:
    return str(daemon.exec(id_, "cat", "/proc/self/attr/current").strip("\0\n"))


def in_info(daemon: Any, id_: str) -> str:
    answer = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id_, verbose=True))
    return str(json.loads(answer.info["info"])["runtimeSpec"]["process"]["apparmorProfile"])


@needs
@pytest.mark.parametrize(
    "asked", [{}, {"apparmor": RUNTIME_DEFAULT}, {"apparmor_profile": "runtime/default"}]
)
@pytest.mark.parametrize("no_new_privs", [False, True])
def test_the_default_profile(daemon: Any, asked: dict[str, Any], *, no_new_privs: bool) -> None:
    config = container(daemon, **asked, no_new_privs=no_new_privs)
    id_ = daemon.run(daemon.run_pod(), config=config)
    for found in (label(daemon, id_), own_label(daemon, id_)):
        assert found == f"{apparmor.DEFAULT} (enforce)"
    assert in_info(daemon, id_) == apparmor.DEFAULT
    daemon.stop(id_, 1)  # the supervisor's signals pass
    assert daemon.status(id_).state == cri.CONTAINER_EXITED


@needs
def test_the_default_profile_refuses_to_mount(daemon: Any) -> None:
    config = container(daemon)
    config.linux.security_context.capabilities.add_capabilities.append("SYS_ADMIN")
    id_ = daemon.run(daemon.run_pod(), config=config)
    request = cri.ExecSyncRequest(container_id=id_, cmd=["mount", "-t", "tmpfs", "x", "/tmp"])
    assert daemon.runtime.ExecSync(request).exit_code != 0
    free = container(daemon, apparmor=UNCONFINED)
    free.linux.security_context.capabilities.add_capabilities.append("SYS_ADMIN")
    request.container_id = daemon.run(daemon.run_pod(), config=free)
    assert daemon.runtime.ExecSync(request).exit_code == 0


@needs
def test_a_profile_of_the_node_in_each_form(daemon: Any, profile: str) -> None:
    pod = daemon.run_pod()
    for asked in (
        {"apparmor": localhost(profile)},
        {"apparmor": localhost(f"localhost/{profile}")},
        {"apparmor_profile": f"localhost/{profile}"},
        {"apparmor": localhost(profile), "apparmor_profile": "localhost/no-such-profile"},
    ):
        id_ = daemon.run(pod, config=container(daemon, **asked))
        assert label(daemon, id_) == f"{profile} (enforce)"
        assert in_info(daemon, id_) == profile
        request = cri.ExecSyncRequest(container_id=id_, cmd=["sh", "-c", "echo x > /tmp/x"])
        assert daemon.runtime.ExecSync(request).exit_code != 0


@needs
def test_who_is_unconfined(daemon: Any) -> None:
    pod_config = daemon.pod_config()
    pod_config.linux.security_context.privileged = True
    pod = daemon.run_pod(pod_config)
    for asked in ({"apparmor": UNCONFINED}, {"apparmor_profile": "unconfined"}, {"privileged": True}):
        id_ = daemon.run(pod, config=container(daemon, **asked))
        assert label(daemon, id_) == "unconfined"


@needs
def test_nobody_redirects_the_label(daemon: Any, profile: str) -> None:
    """CVE-2019-16884: with a directory over /proc the label used to be written into it."""
    (daemon.scratch / "proc").mkdir(exist_ok=True)
    config = container(daemon, apparmor=localhost(profile))
    config.mounts.add(container_path="/proc", host_path=str(daemon.scratch / "proc"))
    with pytest.raises(grpc.RpcError):
        daemon.run(daemon.run_pod(), config=config)
    config = container(daemon, apparmor=localhost(profile))
    (daemon.scratch / "attr").mkdir(exist_ok=True)
    config.mounts.add(container_path="/proc/self/attr", host_path=str(daemon.scratch / "attr"))
    try:
        id_ = daemon.run(daemon.run_pod(), config=config)
    except grpc.RpcError:
        return
    pid = daemon.pid(id_)
    with open(f"/proc/{pid}/attr/current") as file:
        assert file.read().strip("\0\n") == f"{profile} (enforce)"
