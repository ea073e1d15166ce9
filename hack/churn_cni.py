"""Pods in and out by CNI, several at a time, while the daemon is killed; then everything must be as before.

Compared are the links, iptables and nftables rules of the node, the pinned namespaces, the daemon's records of
CNI and host-local's addresses. Run by ``hack/churn-cni``; ends with an error where something is left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from shim._proto import api_pb2 as cri
from tests.integration.socket.conftest import running, scratch_directory
from tests.integration.socket.test_cni_plugins import (
    BANDWIDTH,
    FIREWALL,
    PORTMAP,
    TUNING,
    World,
    bridge,
    host_local,
)

PAUSE_S = 0.05
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Churn:
    """The pods, and what came of them."""

    def __init__(self, daemon: Any, pods: int) -> None:
        self.daemon = daemon
        self.pods = pods
        self.done = 0
        self.again = 0
        self.run_s: list[float] = []
        self.numbers = itertools.count(10_000)
        self.lock = threading.Lock()
        self.given_up = False

    def ask(self, verb: str, request: Any) -> Any:
        """Call a verb until a daemon has answered it, as a kubelet does."""
        while not self.given_up:
            try:
                return getattr(self.daemon.runtime, verb)(request)
            except ValueError:  # the channel to a daemon that was killed
                pass
            except grpc.RpcError as error:
                if error.code() not in GONE:
                    raise
            with self.lock:
                self.again += 1
            time.sleep(PAUSE_S)
        raise RuntimeError("the daemon did not come back")

    def run_pod(self, config: Any) -> str:
        """Return the id of a new pod, also where the answer of a daemon that was killed got lost."""
        try:
            return str(self.ask("RunPodSandbox", cri.RunPodSandboxRequest(config=config)).pod_sandbox_id)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        items = self.ask("ListPodSandbox", cri.ListPodSandboxRequest()).items
        return str(next(item.id for item in items if item.metadata == config.metadata))

    def pod(self, number: int) -> None:
        """Let a pod come and go."""
        port = cri.PortMapping(container_port=80, host_port=next(self.numbers))
        config = self.daemon.pod_config(port_mappings=[port])
        if number % 4 == 0:
            config.annotations["kubernetes.io/ingress-bandwidth"] = "100M"
        began = time.monotonic()
        id_ = self.run_pod(config)
        with self.lock:
            self.run_s.append(time.monotonic() - began)
        self.ask("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=id_))
        self.ask("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=id_))
        with self.lock:
            self.done += 1

    def kill(self, kills: int, finished: threading.Event) -> int:
        """Kill the daemon, evenly among the pods; return how often that was."""
        for number in range(1, kills + 1):
            while self.done < self.pods * number // (kills + 1):
                if finished.wait(0.01):
                    return number - 1
            try:
                self.daemon.restart()
            except BaseException:
                self.given_up = True
                raise
        return kills


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    with running(scratch_directory(), "--set=network.cni_timeout_s=60") as daemon:
        world = World(daemon)
        ipam = host_local(daemon, "10.99.0.0/16", "fd99::/64")
        world.configure(bridge(ipam=ipam, ipMasq=True), PORTMAP, BANDWIDTH, FIREWALL, TUNING)
        churn = Churn(daemon, given.pods)
        churn.pod(0)  # what all pods share is there from now on
        churn.done = 0
        before = world.idle()
        finished = threading.Event()
        began = time.monotonic()
        with ThreadPoolExecutor(given.at_once) as pods, ThreadPoolExecutor(1) as other:
            killing = other.submit(churn.kill, given.kills, finished)
            failures = [each.exception() for each in [pods.submit(churn.pod, n) for n in range(given.pods)]]
            finished.set()
            kills = killing.result()
        took_s = time.monotonic() - began
        deadline = time.monotonic() + 60
        while world.things() != before and time.monotonic() < deadline:
            time.sleep(0.2)
        after = world.things()
        left = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
        times = sorted(churn.run_s)
        print(
            f"{churn.done} pods, {given.at_once} at a time, {kills} kills of the daemon, {churn.again} calls made "
            f"again, in {took_s:.0f} s; RunPodSandbox {times[len(times) // 2] * 1000:.0f} ms in the middle, "
            f"{times[-1] * 1000:.0f} ms at most"
        )
        print("compared: " + ", ".join(f"{key} {len(value)}" for key, value in after.items()))
        wrong = [str(each) for each in failures if each is not None]
        for text in wrong[:5]:
            print("failed:", text)
        print("left:", json.dumps(left) if left else "nothing")
        return 1 if wrong or left or kills < given.kills else 0


if __name__ == "__main__":
    sys.exit(main())
