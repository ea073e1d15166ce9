"""The built-in network beside containerd with Debian's CNI plugins: time, throughput, latency. Run by ``hack/bench-network``.

Both runtimes run here, each in a network namespace of its own, with dual-stack pods; containerd's get theirs by the
plugins bridge, host-local and portmap.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parent))
import bench_cgroups
from bench_main import print_table, summarize
from bench_pods import Pod, Runtime

from shim._proto import api_pb2 as cri

IMAGE = "bench.local/busybox:1"
BUSYBOX = Path("/bin/busybox")
PINGS = 5000
CNI = {
    "cniVersion": "0.4.0",
    "name": "bench",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.244.0.0/16"}], [{"subnet": "fd00:244::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
CONTAINERD = """version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{0}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{1}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{2}"
conf_dir = "{0}/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
# Answers datagrams as they come; its second half, run elsewhere, prints the median of their round trips in us.
PING = """import socket, statistics, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    if len(sys.argv) == 2:
        sock.bind((sys.argv[1], 9999))
        print(flush=True)
        while True:
            data, peer = sock.recvfrom(64)
            sock.sendto(data, peer)
    sock.connect((sys.argv[1], 9999))
    sock.settimeout(5)
    times = []
    for _ in range(int(sys.argv[2])):
        start = time.perf_counter()
        sock.send(b"x")
        sock.recv(64)
        times.append(time.perf_counter() - start)
    print(statistics.median(times) * 1e6)
"""


class Node:
    """A runtime in a network namespace of its own; it ends with everything that it started."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        self.place = scratch / name
        self.place.mkdir()
        self.netns = f"cri-shim-test-{os.getpid()}-{name}"
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        subprocess.run(["ip", "-n", self.netns, "link", "set", "lo", "up"], check=True)

    def start(self, socket: Path, *command: str) -> str:
        """Start the runtime, and wait until it answers; return its socket."""
        with (self.place / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.netns}", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        return str(socket)

    def inside(self, netns: str, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Run a command in a pod's network namespace."""
        return subprocess.Popen(["nsenter", f"--net={netns}", *command], text=True, **options)

    def end(self) -> None:
        """End it."""
        if hasattr(self, "process"):
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        subprocess.run(["ip", "netns", "delete", self.netns], check=False)


def make_image(target: Path) -> None:
    """Write a docker archive of a static busybox."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for applet in ("sleep", "true", "sh"):
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
    data = layer.getvalue()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        for name, content in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", data),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def start_ours(node: Node, image: Path) -> str:
    (node.place / "config.toml").write_text("version = 1\n")
    socket = node.place / "state/s.sock"
    settings = {
        "cgroup.parent": f"/cri-shim-test-{os.getpid()}",
        "cgroup.driver": "cgroupfs",
        "network.netns_dir": f"{node.place}/netns",
        "network.mode": "builtin",
    }
    flags = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    places = [f"--root={node.place}/root", f"--state={node.place}/state", f"--socket={socket}"]
    command = [sys.executable, "-m", "shim", "serve", "--config", str(node.place / "config.toml")]
    node.start(socket, *command, *places, *flags)
    load = [sys.executable, "-m", "shim", "image", "load", "-i", str(image)]
    subprocess.run(
        load, check=True, env=os.environ | {"CRI_SHIM_SOCKET": str(socket)}, stdout=subprocess.DEVNULL
    )
    return str(socket)


def start_containerd(node: Node, image: Path, plugins: str) -> str:
    (node.place / "net.d").mkdir()
    (node.place / "net.d/10-bench.conflist").write_text(json.dumps(CNI))
    (node.place / "config.toml").write_text(CONTAINERD.format(node.place, IMAGE, plugins))
    socket = node.start(node.place / "c.sock", "containerd", "--config", str(node.place / "config.toml"))
    load = ["ctr", "--address", socket, "-n", "k8s.io", "images", "import", str(image)]
    subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
    return socket


class DualStack(Runtime):
    """Pods with a port of the node for each version of IP."""

    port = 20000

    def _pod_config(self) -> cri.PodSandboxConfig:
        config = super()._pod_config()
        DualStack.port += 1
        config.port_mappings.add(protocol=cri.TCP, container_port=80, host_port=DualStack.port)
        config.port_mappings.add(protocol=cri.UDP, container_port=53, host_port=DualStack.port)
        return config


def sandboxes(runtimes: list[DualStack], cycles: int) -> dict[str, dict[str, dict[str, float]]]:
    """Run and remove a pod on each in turn."""
    for cycle in range(cycles + 2):
        for runtime in runtimes:
            pod = Pod(runtime._pod_config())
            for name, ask in (
                ("RunPodSandbox", lambda: run(runtime, pod)),  # noqa: B023  # called at once
                ("StopPodSandbox", lambda: stop(runtime, pod)),  # noqa: B023
                ("RemovePodSandbox", lambda: remove(runtime, pod)),  # noqa: B023
            ):
                start = time.perf_counter()
                ask()
                if cycle >= 2:  # the first ones warm up
                    runtime.times[name].append((time.perf_counter() - start) * 1000)
    return {runtime.endpoint: summarize(runtime.times) for runtime in runtimes}


def run(runtime: DualStack, pod: Pod) -> None:
    request = cri.RunPodSandboxRequest(config=pod.config)
    pod.sandbox_id = runtime.runtime.RunPodSandbox(request).pod_sandbox_id


def stop(runtime: DualStack, pod: Pod) -> None:
    runtime.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox_id))


def remove(runtime: DualStack, pod: Pod) -> None:
    runtime.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox_id))
    bench_cgroups.remove(pod.config.metadata.uid)


def place_of(runtime: DualStack, pod: Pod) -> tuple[str, list[str]]:
    """Return (path of a pod's network namespace, its addresses)."""
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox_id, verbose=True)
    answer = runtime.runtime.PodSandboxStatus(request)
    spaces = json.loads(answer.info["info"])["runtimeSpec"]["linux"]["namespaces"]
    path = next(each["path"] for each in spaces if each["type"] == "network")
    network = answer.status.network
    return path, [network.ip, *(each.ip for each in network.additional_ips)]


@contextlib.contextmanager
def two_pods(runtime: DualStack) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (namespace of one pod, that of another, the other's addresses)."""
    pods = [Pod(runtime._pod_config()) for _ in range(2)]
    for pod in pods:
        run(runtime, pod)
    (one, _), (other, addresses) = (place_of(runtime, pod) for pod in pods)
    try:
        yield one, other, addresses
    finally:
        for pod in pods:
            stop(runtime, pod)
            remove(runtime, pod)


def throughput(
    nodes: list[Node], runtimes: list[DualStack], rounds: int, seconds: int, versions: list[int]
) -> dict[str, list[list[float]]]:
    """Return figures of each round by what was measured, for each runtime; who is first changes each round."""
    found: dict[str, list[list[float]]] = {}
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(two_pods(runtime)) for runtime in runtimes]
        for node, (_, server, addresses) in zip(nodes, pairs, strict=True):
            daemon = node.inside(server, "iperf3", "-s", stdout=subprocess.DEVNULL)
            stack.callback(daemon.wait)
            stack.callback(daemon.kill)
            for address in addresses:
                echo = node.inside(server, sys.executable, "-c", PING, address, stdout=subprocess.PIPE)
                stack.callback(echo.communicate)
                stack.callback(echo.kill)
                assert echo.stdout is not None
                echo.stdout.readline()
        time.sleep(1)
        for number in range(rounds):
            for version in versions:
                for at in (0, 1) if number % 2 else (1, 0):
                    client, _, addresses = pairs[at]
                    address = next(ip for ip in addresses if (":" in ip) == (version == 6))
                    for name, value in measure(nodes[at], client, address, seconds):
                        label = f"{name} IPv{version}"
                        found.setdefault(label, [[] for _ in nodes])[at].append(value)
    return found


def describe(values: list[float]) -> str:
    """Return the median, and between what the middle half of the values lies."""
    if len(values) < 2:
        return f"{values[0]:8.2f}"
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{statistics.median(values):8.2f} ({low:.2f} to {high:.2f})"


def measure(node: Node, client: str, address: str, seconds: int) -> Iterator[tuple[str, float]]:
    """Yield (what, figure) from one pod to another."""
    for name, flags in (("TCP Gbit/s", ()), ("UDP Gbit/s", ("-u", "-b", "0", "-l", "1400"))):
        command = ("iperf3", "-J", "-c", address, "-t", str(seconds), *flags)
        text, _ = node.inside(client, *command, stdout=subprocess.PIPE).communicate()
        end = json.loads(text)["end"]
        received = end["sum_received"] if "sum_received" in end else end["sum"]
        lost = end["sum"].get("lost_percent", 0) if flags else 0
        rate = received["bits_per_second"] if not flags else end["sum"]["bits_per_second"] * (1 - lost / 100)
        yield name, rate / 1e9
    text, _ = node.inside(
        client, sys.executable, "-c", PING, address, str(PINGS), stdout=subprocess.PIPE
    ).communicate()
    yield "round trip us", float(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/bench-network", description=__doc__)
    parser.add_argument("--cycles", type=int, default=30, help="of sandboxes; 0 leaves them out")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput and latency")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of iperf3")
    parser.add_argument("--versions", type=int, nargs="+", choices=(4, 6), default=[4, 6], help="of IP")
    parser.add_argument("--plugins", default="/usr/lib/cni", help="directory of the CNI plugins")
    return parser.parse_args()


def main() -> int:
    options = parse()
    scratch = Path(tempfile.mkdtemp(prefix="cri-shim-test-bench-", dir="/var/tmp"))
    nodes = [Node(name, scratch) for name in ("cri-shim", "containerd")]
    runtimes: list[DualStack] = []
    try:
        make_image(scratch / "image.tar")
        sockets = [
            start_ours(nodes[0], scratch / "image.tar"),
            start_containerd(nodes[1], scratch / "image.tar", options.plugins),
        ]
        runtimes += [DualStack(socket, IMAGE) for socket in sockets]
        print("   |   ".join(runtime.name for runtime in runtimes))
        if options.cycles:
            results = sandboxes(runtimes, options.cycles)
            rows = {
                row: [results[runtime.endpoint][row] for runtime in runtimes]
                for row in ("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox")
            }
            print_table("sandboxes with two host ports, dual stack; ms", rows)
        print(f"\npod to pod, medians of {options.rounds} rounds (the middle half of them)")
        figures = throughput(nodes, runtimes, options.rounds, options.seconds, options.versions)
        for name, by_runtime in figures.items():
            print(f"  {name:<20}" + "   |   ".join(describe(values) for values in by_runtime))
    finally:
        for runtime in runtimes:
            runtime.remove_all()
        for node in nodes:
            node.end()
        subprocess.run(["sh", "-c", f"umount -R {scratch}/*/* 2>/dev/null"], check=False)
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
