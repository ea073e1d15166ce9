"""SELinux as a kubelet asks for it: forms everywhere, effects where the node has it."""

from __future__ import annotations

import json
import os
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.services.confinement import selinux

pytestmark = pytest.mark.root

POLICY = selinux.policy("auto")
needs = pytest.mark.skipif(POLICY is None, reason="no SELinux here, or no policy for containers")
Code = grpc.StatusCode


def container(daemon: Any, **options: str) -> cri.ContainerConfig:
    config = daemon.container_config("sleep", "1000")
    if options:
        config.linux.security_context.selinux_options.CopyFrom(cri.SELinuxOption(**options))
    return config


BAD = [
    {"level": "s0,c4,c5"},
    {"user": "a b"},
    {"role": "a:b"},
    {"type": "a/b"},
]


@pytest.mark.parametrize("options", BAD)
def test_what_is_no_label_is_refused_everywhere(daemon: Any, options: dict[str, str]) -> None:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, container(daemon, **options))
    assert caught.value.code() is Code.INVALID_ARGUMENT
    config = daemon.pod_config()
    config.linux.security_context.selinux_options.CopyFrom(cri.SELinuxOption(**options))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.run_pod(config)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "selinux_options" in caught.value.details()


@pytest.mark.skipif(POLICY is not None, reason="this node has SELinux")
def test_a_node_without_selinux_runs_what_has_the_right_form(daemon: Any) -> None:
    config = container(daemon, user="system_u", role="system_r", type="svirt_lxc_net_t", level="s0:c4,c5")
    config.mounts.add(container_path="/v", host_path=str(daemon.scratch / "v"), selinux_relabel=True)
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert daemon.status(id_).state == cri.CONTAINER_RUNNING


def label(daemon: Any, id_: str) -> str:
    return str(daemon.exec(id_, "cat", "/proc/1/attr/current").strip("\0\n"))


@needs
def test_pods_are_kept_apart_and_containers_of_one_are_not(daemon: Any) -> None:
    first, second = daemon.run_pod(), daemon.run_pod()
    a, b, c = daemon.run(first), daemon.run(first), daemon.run(second)
    assert label(daemon, a) == label(daemon, b) != label(daemon, c)
    assert ":container_t:" in label(daemon, a)
    assert ":container_file_t:" in daemon.exec(a, "cat", "/proc/1/mountinfo")
    answer = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=a, verbose=True))
    assert json.loads(answer.info["info"])["runtimeSpec"]["process"]["selinuxLabel"] == label(daemon, a)


@needs
def test_what_is_asked_for(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, level="s0:c4,c5"))
    assert label(daemon, id_).endswith(":s0:c4,c5")
    assert daemon.exec(id_, "cat", "/proc/self/attr/current").strip("\0\n") == label(daemon, id_)
    config = daemon.pod_config()
    config.linux.security_context.privileged = True
    privileged = container(daemon)
    privileged.linux.security_context.privileged = True
    assert ":spc_t:" in label(daemon, daemon.run(daemon.run_pod(config), config=privileged))


@needs
def test_a_label_that_the_policy_does_not_know_is_refused(daemon: Any) -> None:
    for options in ({"user": "no_such_u"}, {"role": "no_such_r"}, {"type": "no_such_t"}, {"level": "s9:c1"}):
        pod = daemon.run_pod()
        with pytest.raises(grpc.RpcError) as caught:
            daemon.create(pod, container(daemon, **options))
        assert caught.value.code() is Code.INVALID_ARGUMENT


@needs
def test_a_volume_is_relabelled_only_if_that_is_asked_for(daemon: Any) -> None:
    for asked in (True, False):
        directory = daemon.scratch / f"relabel-{asked}"
        directory.mkdir(exist_ok=True)
        config = container(daemon)
        config.mounts.add(container_path="/v", host_path=str(directory), selinux_relabel=asked)
        id_ = daemon.run(daemon.run_pod(), config=config)
        assert (b":container_file_t:" in os.getxattr(directory, "security.selinux")) == asked
        assert daemon.exec(id_, "ls", "-d", "/v") == "/v\n"
