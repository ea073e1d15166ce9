"""Times of lists, statistics and metrics with many containers, and what a kubelet's pattern costs a runtime."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import statistics
import sys
import time
import uuid
from collections import defaultdict
from pathlib import Path

import bench_cgroups
import bench_costs
import grpc

from shim._proto import api_pb2 as cri
from shim.cli.client import Stub

NAMESPACE = "cri-bench-lists"
SIZES = (10, 11, 12, 13, 14, 15)  # containers in a pod, in turn
_MESSAGE = 64 << 20

CALLS = {
    "ListPodSandbox": lambda r: r.ListPodSandbox(cri.ListPodSandboxRequest()).items,
    "ListContainers": lambda r: r.ListContainers(cri.ListContainersRequest()).containers,
    "ListContainerStats": lambda r: r.ListContainerStats(cri.ListContainerStatsRequest()).stats,
    "ListPodSandboxStats": lambda r: r.ListPodSandboxStats(cri.ListPodSandboxStatsRequest()).stats,
    "ListPodSandboxMetrics": lambda r: (
        r.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest()).pod_metrics
    ),
    "StreamContainers": lambda r: [
        item for message in r.StreamContainers(cri.StreamContainersRequest()) for item in message.containers
    ],
    "StreamPodSandboxMetrics": lambda r: [
        item
        for message in r.StreamPodSandboxMetrics(cri.StreamPodSandboxMetricsRequest())
        for item in message.pod_sandbox_metrics
    ],
}


class Runtime:
    """One endpoint."""

    def __init__(self, endpoint: str) -> None:
        self.path = endpoint.removeprefix("unix://")
        options = [("grpc.max_receive_message_length", _MESSAGE), ("grpc.enable_http_proxy", 0)]
        channel = grpc.insecure_channel(f"unix:{self.path}", options=options)
        self.runtime = Stub(channel, cri, "RuntimeService")
        self.images = Stub(channel, cri, "ImageService")
        version = self.runtime.Version(cri.VersionRequest())
        self.name = f"{version.runtime_name} {version.runtime_version}"
        self.lacks: set[str] = set()

    def pods(self) -> list[cri.PodSandbox]:
        found = self.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
        return [pod for pod in found if pod.metadata.namespace == NAMESPACE]

    def start_pod(self, image: str, size: int) -> None:
        """Run a pod as a kubelet asks for one, with so many containers."""
        uid = str(uuid.uuid4())
        name = f"web-frontend-{uid[:8]}"
        labels = {
            "app.kubernetes.io/name": "web-frontend",
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": NAMESPACE,
            "io.kubernetes.pod.uid": uid,
        }
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace=NAMESPACE),
            hostname=name[:60],
            log_directory=f"/var/tmp/cri-bench-lists/{uid}",
            labels=labels,
            annotations={
                "kubernetes.io/config.seen": "2026-01-01T00:00:00Z",
                "kubernetes.io/config.source": "api",
            },
        )
        config.linux.cgroup_parent = bench_cgroups.make(uid)
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        pod = self.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=config)).pod_sandbox_id
        for number in range(size):
            container = cri.ContainerConfig(
                metadata=cri.ContainerMetadata(name=f"main-{number}"),
                image=cri.ImageSpec(image=image, user_specified_image=image),
                command=["sleep", "100000"],
                log_path=f"main-{number}/0.log",
                labels={**labels, "io.kubernetes.container.name": f"main-{number}"},
                annotations={
                    "io.kubernetes.container.hash": "b1946ac9",
                    "io.kubernetes.container.restartCount": "0",
                    "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
                    "io.kubernetes.container.terminationMessagePolicy": "File",
                    "io.kubernetes.pod.terminationGracePeriod": "30",
                },
            )
            container.linux.resources.cpu_shares = 102
            container.linux.resources.memory_limit_in_bytes = 64 << 20
            container.linux.security_context.namespace_options.pid = cri.CONTAINER
            request = cri.CreateContainerRequest(pod_sandbox_id=pod, config=container, sandbox_config=config)
            id_ = self.runtime.CreateContainer(request).container_id
            self.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))

    def prepare(self, image: str, count: int, width: int) -> None:
        status = self.images.ImageStatus(cri.ImageStatusRequest(image=cri.ImageSpec(image=image)))
        if not status.HasField("image"):
            self.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=image)))
        here = sum(
            each.labels.get("io.kubernetes.pod.namespace") == NAMESPACE
            for each in self.runtime.ListContainers(cri.ListContainersRequest()).containers
        )
        wanted, turn = [], 0
        while here + sum(wanted) < count:
            wanted.append(min(SIZES[turn % len(SIZES)], count - here - sum(wanted)))
            turn += 1
        with concurrent.futures.ThreadPoolExecutor(width) as threads:
            list(threads.map(lambda size: self.start_pod(image, size), wanted))

    def remove(self) -> None:
        def one(pod: cri.PodSandbox) -> None:
            self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod.id))
            self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
            bench_cgroups.remove(pod.metadata.uid)

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            list(threads.map(one, self.pods()))

    def call(self, name: str) -> tuple[float, int] | None:
        """Return (ms, items) of one call; None where the runtime has none such."""
        if name in self.lacks:
            return None
        begin = time.perf_counter()
        try:
            items = len(CALLS[name](self.runtime))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            self.lacks.add(name)
            return None
        return (time.perf_counter() - begin) * 1000, items


def measure(runtimes: list[Runtime], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Call each in turn, the runtimes one after the other, and print medians, 90th percentiles and ratios."""
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in CALLS}
    items: dict[str, dict[str, int]] = {name: {} for name in CALLS}
    for turn in range(rounds + 1):
        for name in CALLS:
            for runtime in runtimes:
                found = runtime.call(name)
                if found is not None and turn:
                    times[name][runtime.path].append(found[0])
                    items[name][runtime.path] = found[1]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'ms: median (90th percentile)':<30}" + "".join(f"{r.name:>34}" for r in runtimes))
    for name in CALLS:
        cells, figures[name] = [], {}
        first = None
        for runtime in runtimes:
            taken = sorted(times[name][runtime.path])
            if not taken:
                cells.append("-")
                continue
            median, high = statistics.median(taken), taken[int(len(taken) * 0.9)]
            count = items[name][runtime.path]
            figures[name][runtime.path] = {"median": median, "p90": high, "items": count}
            ratio = "" if first is None else f"  {first / median:.2f}"
            first = median if first is None else first
            cells.append(f"{median:.2f} ({high:.2f}) {count} items{ratio}")
        print(f"{name:<30}" + "".join(f"{cell:>34}" for cell in cells))
    return figures


def watch(runtimes: list[Runtime], seconds: float) -> dict[str, dict[str, float]]:
    """Ask as a kubelet does, lists each second and numbers each ten; print what it costs each runtime."""
    every = ("ListPodSandbox", "ListContainers")
    tenth = ("ListContainerStats", "ListPodSandboxStats", "ListPodSandboxMetrics")
    figures: dict[str, dict[str, float]] = {}
    for runtime in runtimes:
        before, memory = bench_costs.cpu_ms(runtime.path), [bench_costs.pss_mib(runtime.path)]
        begin = time.monotonic()
        turn = 0
        while time.monotonic() - begin < seconds:
            for name in (*every, *(tenth if turn % 10 == 0 else ())):
                runtime.call(name)
            turn += 1
            if turn % 60 == 0:
                memory.append(bench_costs.pss_mib(runtime.path))
            time.sleep(max(0.0, begin + turn - time.monotonic()))
        passed = time.monotonic() - begin
        share = (bench_costs.cpu_ms(runtime.path) - before) / (passed * 10)
        memory.append(bench_costs.pss_mib(runtime.path))
        figures[runtime.path] = {"cpu percent": share, **{f"MiB {n}": m for n, m in enumerate(memory)}}
        print(
            f"{runtime.name}: {share:.2f} % of a processor for {passed:.0f} s; MiB: "
            + ", ".join(f"{each:.1f}" for each in memory)
        )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="hack/bench-lists", description=__doc__)
    parser.add_argument("what", choices=("prepare", "measure", "watch", "remove"))
    parser.add_argument("endpoints", nargs="+", metavar="ENDPOINT", help="socket of a runtime")
    parser.add_argument("--image", default="docker.io/library/busybox:latest", help="with sleep in it")
    parser.add_argument("--containers", type=int, default=300)
    parser.add_argument("--width", type=int, default=4, help="pods that are made at once")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=300, help="to watch each runtime")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    runtimes = [Runtime(endpoint) for endpoint in options.endpoints]
    figures: object = None
    if options.what == "measure":
        figures = measure(runtimes, options.rounds)
    elif options.what == "watch":
        figures = watch(runtimes, options.seconds)
    else:
        for runtime in runtimes:
            begin = time.monotonic()
            if options.what == "prepare":
                runtime.prepare(options.image, options.containers, options.width)
            else:
                runtime.remove()
            print(f"{runtime.name}: {len(runtime.pods())} pods, {time.monotonic() - begin:.0f} s")
    if options.json and figures is not None:
        Path(options.json).write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except grpc.RpcError as error:
        sys.exit(f"a call failed: {error.code().name}: {error.details()}")
