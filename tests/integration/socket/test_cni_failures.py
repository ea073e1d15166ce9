"""CNI plugins that misbehave at each verb, a configuration that comes and goes, a daemon that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import grpc
import pytest
from cni_bed import Bed

from shim._proto import api_pb2 as cri
from shim.network.cni_plugin import MARK
from tests.integration.socket.conftest import PATIENCE_S, running, scratch_directory

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon() -> Iterator[Any]:
    """A daemon that has begun with the built-in network, and sees CNI from the first test on."""
    scratch = scratch_directory()
    settings = {"network.cni_bin_dirs": [f"{scratch}/bin"], "network.cni_timeout_s": 3}
    with running(scratch, *(f"--set={key}={json.dumps(value)}" for key, value in settings.items())) as it:
        yield it


class World(Bed):
    """The plugins, and what a daemon has of them."""

    def __init__(self, daemon: Any) -> None:
        for name in ("net.d", "bin"):
            shutil.rmtree(daemon.scratch / name, ignore_errors=True)
        super().__init__(daemon.scratch, version="1.1.0")
        self.daemon = daemon
        self.threads = ThreadPoolExecutor(4)

    def later(self, call: Any, *arguments: Any) -> Future[Any]:
        """Call in a thread; its end is the caller's to look at."""
        return self.threads.submit(call, *arguments)

    def network(self) -> tuple[bool, str]:
        """NetworkReady as a kubelet sees it."""
        (condition,) = [
            each
            for each in self.daemon.runtime.Status(cri.StatusRequest()).status.conditions
            if each.type == "NetworkReady"
        ]
        return condition.status, condition.message

    def ready(self) -> bool:
        """Tell whether NetworkReady is true; on a busy machine plugins may be late to say so."""
        return self.network() == (True, "")

    def details(self) -> Any:
        answer = self.daemon.runtime.Status(cri.StatusRequest(verbose=True))
        return json.loads(answer.info["network"])["cni"]

    def status(self, pod: tuple[str, Any]) -> tuple[int, str]:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0])
        status = self.daemon.runtime.PodSandboxStatus(request).status
        return status.state, status.network.ip

    def inspect(self, pod: tuple[str, Any]) -> str:
        """What CHECK says."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod[0], verbose=True)
        info = self.daemon.runtime.PodSandboxStatus(request).info
        return json.loads(info["info"])["network"]["check"]

    def records(self) -> list[str]:
        """What is recorded, without what is just being written."""
        return sorted(path.stem for path in (self.daemon.root / "network/cni").glob("[!.]*"))

    def pins(self) -> list[str]:
        return os.listdir(f"{self.daemon.scratch}/netns")

    def running_plugins(self) -> list[int]:
        mark = f"{MARK}={self.daemon.root}/network/cni".encode()
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdecimal() and mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
            except OSError:
                continue
        return found

    def nothing_left(self) -> bool:
        left = (self.records(), self.held(), self.pins(), self.running_plugins())
        return (
            left == ([], [], [], [])
            and not self.daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
        )

    def gone(self) -> None:
        """Check that nothing is recorded, held or pinned now, and that what was killed dies."""
        assert (self.records(), self.held(), self.pins()) == ([], [], [])
        self.daemon.until(self.nothing_left)

    def doctor(self) -> str:
        """What the doctor prints for this daemon."""
        daemon = self.daemon
        settings = {
            "network.cni_conf_dirs": [str(self.conf_dir)],
            "network.cni_bin_dirs": [str(self.bin_dir)],
        }
        command = [sys.executable, "-m", "shim", "doctor", f"--root={daemon.root}", f"--state={daemon.state}"]
        command += [f"--config={daemon.scratch}/config.toml"]
        command += [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def world(daemon: Any) -> Iterator[World]:
    it = World(daemon)
    yield it
    daemon.remove_all()
    daemon.until(it.nothing_left)
    it.threads.shutdown()


def test_the_switch_and_a_configuration_that_vanishes_and_reappears(daemon: Any) -> None:
    before = daemon.run_pod()
    assert daemon.runtime.Status(cri.StatusRequest()).status.conditions[1].status
    world = World(daemon)
    text = world.file.read_text()
    first = daemon.run_pod()
    daemon.until(world.ready)
    assert world.status(first) == (cri.SANDBOX_READY, "10.0.0.2")
    assert f"still run: test/{before[1].metadata.name}" in world.doctor()

    world.file.unlink()
    ready, message = world.network()
    assert (ready, message) == (
        False,
        f"no CNI configuration in {world.conf_dir}: a network add-on puts it there",
    )
    with pytest.raises(grpc.RpcError) as refused:
        daemon.run_pod()
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "a network add-on puts it there" in refused.value.details()
    for pod in (before, first):
        assert world.status(pod)[0] == cri.SANDBOX_READY
    world.file.write_text("{")
    assert f"{world.file}: it is not JSON" in world.network()[1]
    assert f"{world.file}: it is not JSON" in world.doctor()

    world.file.write_text(text)
    daemon.until(world.ready)
    second = daemon.run_pod()
    world.file.unlink()
    daemon.restart()
    for pod in (before, first, second):
        assert world.status(pod)[0] == cri.SANDBOX_READY
        daemon.remove(pod[0])
    daemon.until(lambda: not list((daemon.root / "network/leases").iterdir()))
    daemon.until(world.nothing_left)
    world.threads.shutdown()


def test_a_plugin_that_disappears_is_missed_at_once(daemon: Any, world: World) -> None:
    daemon.until(world.ready)
    world.remove("second")
    ready, message = world.network()
    assert not ready
    assert "CNI plugin 'second' of network 'net' in " in message
    assert message.endswith("install it")
    world.install("second")
    daemon.until(world.ready)


@pytest.mark.parametrize("how", ["fail", "words", "rubbish", "empty", "flood", "without"])
def test_an_add_that_fails_leaves_nothing(world: World, how: str) -> None:
    world.does("second", "ADD", how)
    with pytest.raises(grpc.RpcError) as failed:
        world.daemon.run_pod()
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "'second' (ADD) of network 'net'" in failed.value.details() or how == "without"
    world.gone()


def test_an_add_that_hangs_leaves_nothing(world: World) -> None:
    world.does("second", "ADD", "hang")
    with pytest.raises(grpc.RpcError) as failed:
        world.daemon.run_pod()
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "took more than 3 s and was killed" in failed.value.details()
    world.gone()


@pytest.mark.parametrize("how", ["fail", "missing"])
def test_a_del_that_fails_holds_up_nobody_and_is_told(world: World, how: str) -> None:
    world.configure("1.0.0")  # no GC, which would free what is held
    daemon = world.daemon
    pod = daemon.run_pod()
    if how == "missing":
        world.remove("second")
    else:
        world.does("second", "DEL", how)
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod[0]))
    assert world.status(pod)[0] == cri.SANDBOX_NOTREADY
    daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod[0]))
    assert world.pins() == []
    assert not daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
    for again in (True, False):
        assert (world.records(), world.held()) == ([pod[0]], [f"second-{pod[0]}"])
        (waiting,) = world.details()["waiting"]
        assert waiting["sandboxID"] == pod[0]
        assert "'second' (DEL) of network 'net'" in waiting["lastError"]
        assert f"of sandbox {pod[0]} is not taken back since" in world.doctor()
        if again:
            daemon.restart()
    world.install("second")
    world.does("second", "DEL")
    daemon.restart()  # which tries at once; else the pause is over some time
    daemon.until(lambda: world.nothing_left() and not world.details()["waiting"])
    assert "not taken back" not in world.doctor()


def test_a_del_that_hangs_holds_up_nobody(world: World) -> None:
    daemon = world.daemon
    pod = daemon.run_pod()
    world.does("first", "DEL", "hang")
    daemon.remove(pod[0])
    assert world.pins() == []
    assert "took more than 3 s and was killed" in world.details()["waiting"][0]["lastError"]
    world.does("first", "DEL")
    daemon.until(world.nothing_left)


@pytest.mark.parametrize("how", ["fail", "silent"])
def test_a_plugin_that_says_it_is_not_ready_is_named(world: World, how: str) -> None:
    world.configure("1.1.0", name=how)  # another network, so that no earlier answer counts
    world.does("first", "STATUS", how)
    world.daemon.until(lambda: f"'first' (STATUS) of network {how!r}" in world.network()[1])
    assert not world.network()[0]
    world.does("first", "STATUS")
    world.daemon.until(lambda: world.network()[0])


@pytest.mark.parametrize("verb", ["STATUS", "VERSION"])
def test_a_plugin_that_hangs_does_not_hold_up_status(world: World, verb: str) -> None:
    world.configure("1.1.0", name=verb)
    world.does("first", verb, "hang")
    world.install("first")
    began = time.monotonic()
    ready, message = world.network()
    assert time.monotonic() - began < PATIENCE_S  # far from any deadline of a plugin
    assert not ready
    assert "have not answered STATUS or VERSION" in message
    world.does("first", verb)
    world.daemon.until(lambda: world.network()[0])


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "STATUS", "VERSION", "GC"])
def test_the_daemon_is_killed_while_a_plugin_hangs(world: World, verb: str) -> None:
    daemon = world.daemon
    kept = daemon.run_pod()
    pod = daemon.run_pod() if verb == "DEL" else None
    if verb == "STATUS":
        world.configure("1.1.0", disableGC=True)
    world.does("first", verb, "hang")
    if verb == "VERSION":
        world.install("first")
    calls = {
        "ADD": lambda: daemon.run_pod(),
        "DEL": lambda: pod and daemon.remove(pod[0]),
        "CHECK": lambda: world.inspect(kept),
        "STATUS": world.network,
        "VERSION": world.network,
    }
    if verb == "GC":
        daemon.end(signal.SIGKILL)
    call = world.later(calls.get(verb, daemon.start))
    daemon.until(world.hangs)
    assert world.running_plugins()
    if verb == "GC":
        daemon.process.kill()
        daemon.process.wait()
    else:
        daemon.end(signal.SIGKILL)
        wait([call])  # whatever it says: a plugin's deadline may have come before the kill
    world.does("first", verb)
    daemon.start()
    wait([call])
    daemon.until(lambda: not world.running_plugins())
    assert world.status(kept) == (cri.SANDBOX_READY, "10.0.0.2")
    daemon.until(lambda: world.network()[0])
    if pod is not None:
        daemon.remove(pod[0])
    daemon.until(lambda: world.records() == [kept[0]])
    daemon.until(lambda: world.held() == [f"first-{kept[0]}", f"second-{kept[0]}"])
    assert world.inspect(kept) == "ok"


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_the_daemon_is_killed_after_a_plugin_has_failed(world: World, verb: str) -> None:
    daemon = world.daemon
    pod = daemon.run_pod()
    world.does("second", verb, "fail")
    world.does("first", "DEL", "fail")
    if verb == "ADD":
        with pytest.raises(grpc.RpcError):
            daemon.run_pod()
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod[0]))
    daemon.restart()
    daemon.remove(pod[0])
    assert len(world.records()) == (2 if verb == "ADD" else 1)
    for each in ("first.DEL", f"second.{verb}"):
        (world.bin_dir / each).unlink()
    daemon.restart()
    daemon.until(world.nothing_left)


def unmount(daemon: Any, point: str) -> None:
    """Unmount what processes that were killed may not have let go yet."""
    daemon.until(lambda: subprocess.run(["umount", point], check=False).returncode == 0)


def test_after_a_reboot_del_runs_with_what_add_returned(world: World) -> None:
    daemon = world.daemon
    pod = daemon.run_pod()
    world.calls()
    daemon.end(signal.SIGKILL)
    for module in ("shim.supervisor.main", "shim.supervisor.logger"):
        for pid in daemon.pids_of(module):
            os.kill(pid, signal.SIGKILL)
    for name in world.pins():
        unmount(daemon, f"{daemon.scratch}/netns/{name}")
        os.unlink(f"{daemon.scratch}/netns/{name}")
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((each for each in mounts if each.startswith(str(daemon.state))), reverse=True):
        unmount(daemon, point)
    shutil.rmtree(daemon.state)
    daemon.start()
    daemon.until(lambda: world.records() == [])
    calls = [call for call in world.calls() if call[0] == "DEL"]
    assert [(plugin, netns, given["prevResult"]["by"]) for _, plugin, netns, given in calls] == [
        ("second", "gone", "second"),
        ("first", "gone", "second"),
    ]
    assert world.status(pod)[0] == cri.SANDBOX_NOTREADY


def test_bad_annotations_are_refused_with_nothing_left(world: World) -> None:
    world.configure("1.0.0", plugins=[{"type": "first", "capabilities": {"bandwidth": True, "mac": True}}])
    for key, value in (("kubernetes.io/ingress-bandwidth", "fast"), ("cri-shim.io/mac", "nonsense")):
        config = world.daemon.pod_config()
        config.annotations[key] = value
        with pytest.raises(grpc.RpcError) as refused:
            world.daemon.run_pod(config)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"annotation {key} must be" in refused.value.details()
    world.gone()
