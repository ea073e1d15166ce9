"""Sysctls of a pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri

pytestmark = pytest.mark.root

Code = grpc.StatusCode


def read(daemon: Any, id_: str, name: str) -> str:
    return str(daemon.exec(id_, "cat", f"/proc/sys/{name}").strip())


def test_they_are_set_in_the_pod_and_nowhere_else(daemon: Any) -> None:
    asked = {
        "net.ipv4.ip_local_port_range": "2000\t3000",
        "net/ipv4/conf/all/rp_filter": "2",
        "net.ipv4.conf.eth0.arp_ignore": "2",
        "net/ipv4/neigh/eth0/gc_stale_time": "77",
        "kernel.shmmax": "123456789",
        "kernel/msgmax": "7777",
        "kernel.sem": "251 32001 33 129",
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "5",
    }
    paths = {name.replace(".", "/"): value.replace(" ", "\t") for name, value in asked.items()}
    before = {path: Path(f"/proc/sys/{path}").read_text() for path in paths if "eth0" not in path}
    config = daemon.pod_config()
    config.linux.sysctls.update(asked)
    id_ = daemon.run(daemon.run_pod(config))
    assert {path: read(daemon, id_, path) for path in paths} == paths
    assert {path: Path(f"/proc/sys/{path}").read_text() for path in before} == before
    assert read(daemon, id_, "net/ipv4/ip_unprivileged_port_start") == "0"


def share(kind: str) -> Any:
    def change(config: cri.PodSandboxConfig) -> None:
        setattr(config.linux.security_context.namespace_options, kind, cri.NODE)

    return change


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("vm.swappiness", "1", None),
        ("kernel.panic", "1", None),
        ("kernel.hostname", "x", None),
        ("net.ipv4.nope", "1", None),
        ("net.ipv4.conf", "1", None),
        ("net.ipv4.conf.nope0.arp_ignore", "1", None),
        ("net.ipv4.ip_forward", "no number", None),
        ("net.ipv4.ip_local_port_range", "9 8", None),
        ("net.ipv4.ip_forward", "", None),
        ("net.ipv4.ip_forward", "1\n", None),
        ("net..ipv4", "1", None),
        ("net/../vm/swappiness", "1", None),
        ("net.ipv4.ip_forward", "1", share("network")),
        ("net.ipv4.conf.eth0.arp_ignore", "1", share("network")),
        ("kernel.shmmax", "1", share("ipc")),
        ("fs.mqueue.msg_max", "1", share("ipc")),
    ],
)
def test_what_cannot_be_set_is_named_and_nothing_is_left(
    daemon: Any, name: str, value: str, change: Any
) -> None:
    before = daemon.remains()["netns"]
    config = daemon.pod_config()
    config.linux.sysctls[name] = value
    if change is not None:
        change(config)
    with pytest.raises(grpc.RpcError) as caught:
        daemon.run_pod(config)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    words = caught.value.details()
    assert name in words or name.replace("/", ".") in words
    assert not daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
    assert daemon.remains()["netns"] == before


def test_nobody_on_the_nodes_namespaces_slips_through(daemon: Any) -> None:
    """A pod that has no namespace of its own is made without the step that would look at its sysctls."""
    config = daemon.pod_config()
    for kind in ("network", "ipc"):
        share(kind)(config)
    config.linux.sysctls["net.ipv4.ip_forward"] = "1"
    with pytest.raises(grpc.RpcError) as caught:
        daemon.run_pod(config)
    assert caught.value.code() is Code.INVALID_ARGUMENT


def test_a_value_twice_is_a_contradiction(daemon: Any) -> None:
    config = daemon.pod_config()
    config.linux.sysctls.update({"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"})
    with pytest.raises(grpc.RpcError) as caught:
        daemon.run_pod(config)
    assert (caught.value.code(), "twice" in caught.value.details()) == (Code.INVALID_ARGUMENT, True)
