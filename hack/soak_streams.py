"""Hundreds of streaming sessions over a CRI socket, half of them cut at random, slow ones beside fast ones.

After each round it prints what the runtime has: descriptors, threads, processes in its pod, cgroups of execs,
memory. Ends with an error if something is left that was not there before, or if a session that was not cut
went wrong. Run by ``hack/soak-streams``, where the runtime's streaming address can be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_costs import processes, pss_mib
from bench_main import percentile
from bench_pods import Runtime
from bench_streams import ORDER, PORT, serve_in_network_of

from shim._proto import api_pb2 as cri
from shim.model.streams import StreamOptions
from tests.integration.streaming import clients, sessions

SETTLE_S = 30.0
IDLE = {"processes in the pod": 1, "cgroups of execs": 0}


class Node:
    """A container that repeats each line, and a server that echoes in its pod's network."""

    port = PORT

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.pod = runtime.start(script="while read line; do echo $line; done")
        request = cri.ContainerStatusRequest(container_id=self.pod.container_id, verbose=True)
        pid = json.loads(runtime.runtime.ContainerStatus(request).info["info"])["pid"]
        self._server = serve_in_network_of(pid)

    def close(self) -> None:
        os.kill(self._server, signal.SIGKILL)
        os.waitpid(self._server, 0)
        self.runtime.end(self.pod)

    async def exec_url(self, argv: tuple[str, ...], options: StreamOptions) -> str:
        request = cri.ExecRequest(container_id=self.pod.container_id, cmd=argv, **_asked(options))
        return str((await asyncio.to_thread(self.runtime.runtime.Exec, request)).url)

    async def attach_url(self, options: StreamOptions) -> str:
        request = cri.AttachRequest(container_id=self.pod.container_id, **_asked(options))
        return str((await asyncio.to_thread(self.runtime.runtime.Attach, request)).url)

    async def port_forward_url(self) -> str:
        request = cri.PortForwardRequest(pod_sandbox_id=self.pod.sandbox_id)
        return str((await asyncio.to_thread(self.runtime.runtime.PortForward, request)).url)

    def begun(self, data: bytes) -> bytes:
        """What a client of the server says first."""
        return ORDER.pack(b"e", 0) + data

    def has(self) -> dict[str, int]:
        """Return what the runtime has just now."""
        pids = processes(self.runtime.path)
        return {
            "descriptors": sum(_count(f"/proc/{pid}/fd") for pid in pids),
            "threads": sum(_count(f"/proc/{pid}/task") for pid in pids),
            "processes in the pod": len(self._members()),
            "cgroups of execs": self._exec_cgroups(),
        }

    def _members(self) -> list[str]:
        uid = self.pod.config.metadata.uid
        return [
            entry
            for entry in os.listdir("/proc")
            if entry.isdecimal() and uid in _text(f"/proc/{entry}/cgroup")
        ]

    def _exec_cgroups(self) -> int:
        uid = self.pod.config.metadata.uid
        mounts = [line.split()[1] for line in _text("/proc/mounts").splitlines() if " cgroup" in line]
        return sum(
            "exec-" in os.path.basename(at)
            for mount in mounts
            for at, _, _ in os.walk(f"{mount}{self.pod.config.linux.cgroup_parent}")
            if uid in at
        )


def _asked(options: StreamOptions) -> dict[str, bool]:
    return {
        "tty": options.tty,
        "stdin": options.stdin,
        "stdout": options.stdout,
        "stderr": options.stderr and not options.tty,
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _count(path: str) -> int:
    try:
        return len(os.listdir(path))
    except OSError:
        return 0


async def settled(node: Node, before: dict[str, int]) -> dict[str, int]:
    """Wait until nothing is there that was not before; return what there is more after a while."""
    end = time.monotonic() + SETTLE_S
    while True:
        now = await asyncio.to_thread(node.has)
        more = {name: count - before[name] for name, count in now.items() if count > before[name]}
        if not more or time.monotonic() > end:
            return more
        await asyncio.sleep(0.2)


async def fast_ones(node: Node, count: int) -> list[float]:
    """Return the ms of sessions one after the other."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        session = sessions.Session(node, number)
        await sessions.ENDING[number % len(sessions.ENDING)](session)
        await session.close()
        times.append((time.perf_counter() - began) * 1000)
    return times


async def beside_slow_ones(node: Node, count: int) -> None:
    """Print the times of fast sessions alone, and while slow ones stand still."""
    alone = await fast_ones(node, 60)
    slow = [sessions.Session(node, number) for number in range(count)]
    tasks = [
        asyncio.ensure_future(sessions.ENDLESS[number % len(sessions.ENDLESS)](session))
        for number, session in enumerate(slow)
    ]
    await asyncio.sleep(2)
    beside = await fast_ones(node, 60)
    if any(task.done() for task in tasks):
        raise RuntimeError("a session that never ends has ended")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for session in slow:
        session.cut()
    for name, times in (("alone", alone), (f"beside {count} slow ones", beside)):
        print(
            f"a fast session {name}: p50 {percentile(times, 0.5):.1f} ms, p95 {percentile(times, 0.95):.1f} ms"
        )


async def run(options: argparse.Namespace, node: Node) -> bool:
    chance = random.Random(options.seed)
    clients.PATIENCE_S = 60.0
    await sessions.many(node, 40, chance)  # modules, buffers and threads that come once
    await settled(node, {"descriptors": sys.maxsize, "threads": sys.maxsize, **IDLE})
    before = node.has()
    print(f"before: {before}, {pss_mib(node.runtime.path):.1f} MiB")
    good = True
    for number in range(options.rounds):
        began = time.monotonic()
        seen = await sessions.many(node, options.sessions, chance)
        more = await settled(node, before)
        await asyncio.sleep(6)  # what a runtime gives back after a while
        cut = sum(count for name, count in seen.items() if name.endswith(", cut"))
        print(
            f"round {number + 1}: {seen.total()} sessions, {cut} of them cut, {time.monotonic() - began:.0f} s;"
            f" left: {more or 'nothing'}; {pss_mib(node.runtime.path):.1f} MiB",
            flush=True,
        )
        good = good and not more
    await beside_slow_ones(node, options.slow)
    more = await settled(node, before)
    print(f"left after the slow ones: {more or 'nothing'}")
    return good and not more


def main() -> int:
    parser = argparse.ArgumentParser(prog="hack/soak-streams", description=__doc__)
    parser.add_argument("endpoint", metavar="ENDPOINT")
    parser.add_argument(
        "--image", default="docker.io/library/busybox:latest", help="with sh, cat and sleep in it"
    )
    parser.add_argument("--sessions", type=int, default=500, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow", type=int, default=30, help="slow sessions beside fast ones")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    runtime = Runtime(options.endpoint, options.image)
    node = Node(runtime)
    print(f"{runtime.name} at {runtime.path}; --seed {options.seed}")
    try:
        return 0 if asyncio.run(run(options, node)) else 1
    finally:
        node.close()
        runtime.remove_all()


if __name__ == "__main__":
    sys.exit(main())
