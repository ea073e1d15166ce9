"""Drive the streams of CRI sockets in turn, and print what came through. Run by ``hack/bench-streams``.

The server that connections are forwarded to is a child of this program in the pod's network, so that it costs
as much with every runtime. Run this where the runtimes' streaming addresses can be reached.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
from bench_costs import cpu_ms
from bench_main import percentile, print_table
from bench_pods import Pod, Runtime
from bench_stream_client import FRAME, Client

from shim._proto import api_pb2 as cri
from shim.kernel import namespaces

PORT = 7007
ORDER = struct.Struct("!cQ")  # of the forwarded server: what to do, with how many bytes
_BLOCK = bytes(256 * 1024)
_APART_S = 0.05  # what a runtime still does after one measurement is not part of the next
V4 = "v4.channel.k8s.io"
PORTS = "portforward.k8s.io"

FIRST_BYTE = ("exec, first byte", "exec with a terminal, first byte", "port-forward, first byte")
THROUGHPUT = ("exec stdout", "exec stdin", "port-forward from the pod", "port-forward into the pod")


class Bench:
    """One runtime with a pod, a container, and a server in the pod's network."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.times: dict[str, list[float]] = defaultdict(list)  # ms, or MiB/s
        self.costs: dict[str, list[float]] = defaultdict(list)  # ms of processor time for each GiB
        self.pod: Pod = runtime.start()
        request = cri.ContainerStatusRequest(container_id=self.pod.container_id, verbose=True)
        pid = json.loads(runtime.runtime.ContainerStatus(request).info["info"])["pid"]
        self._server = serve_in_network_of(pid)

    def close(self) -> None:
        os.kill(self._server, signal.SIGKILL)
        os.waitpid(self._server, 0)
        self.runtime.end(self.pod)

    # ---- what is measured

    def first_bytes(self) -> None:
        """From the request to the first byte, of each kind."""
        for name, tty in ((FIRST_BYTE[0], False), (FIRST_BYTE[1], True)):
            time.sleep(_APART_S)
            began = time.perf_counter()
            client, out = self._exec(("echo", "x"), tty=tty)
            client.receive(out)
            self.times[name].append((time.perf_counter() - began) * 1000)
            client.close()
        time.sleep(_APART_S)
        began = time.perf_counter()
        client, data = self._forward(b"d", 1)
        client.receive(data)
        self.times[FIRST_BYTE[2]].append((time.perf_counter() - began) * 1000)
        client.close()

    def throughput(self, size: int) -> None:
        """So many bytes each way, by exec and by port-forward."""
        count = str(size // len(_BLOCK))
        with self._timed(THROUGHPUT[0], size):
            client, out = self._exec(("dd", "if=/dev/zero", f"bs={len(_BLOCK)}", f"count={count}"))
            check(client.count(out), size)
        client.close()
        with self._timed(THROUGHPUT[1], size):
            client, out = self._exec(("sh", "-c", "cat >/dev/null; echo done"), stdin=True)
            self._send(client, out - 2, size)
            client.finish(out - 2)
            check(client.count(out), len(b"done\n"))
        client.close()
        with self._timed(THROUGHPUT[2], size):
            client, data = self._forward(b"d", size)
            check(client.count(data), size)
        client.close()
        with self._timed(THROUGHPUT[3], size):
            client, data = self._forward(b"u", size)
            self._send(client, data, size)
            check(len(client.receive(data)), 1)
        client.close()

    @contextmanager
    def _timed(self, name: str, size: int) -> Iterator[None]:
        before, began = cpu_ms(self.runtime.path), time.perf_counter()
        yield
        self.times[name].append(size / (1 << 20) / (time.perf_counter() - began))
        self.costs[name].append((cpu_ms(self.runtime.path) - before) * (1 << 30) / size)

    # ---- the way there

    def _exec(self, argv: tuple[str, ...], *, tty: bool = False, stdin: bool = False) -> tuple[Client, int]:
        """Run a program; return the client and the stream of its output, which comes after that of its input."""
        request = cri.ExecRequest(
            container_id=self.pod.container_id, cmd=argv, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        client = Client(self.runtime.runtime.Exec(request).url, V4)
        client.open("error")
        if stdin:
            client.open("stdin")
        out = client.open("stdout")
        client.open("resize" if tty else "stderr")
        return client, out

    def _forward(self, what: bytes, size: int) -> tuple[Client, int]:
        request = cri.PortForwardRequest(pod_sandbox_id=self.pod.sandbox_id, port=[PORT])
        client = Client(self.runtime.runtime.PortForward(request).url, PORTS)
        client.finish(client.open("error", port=str(PORT), requestID="0"))
        data = client.open("data", port=str(PORT), requestID="0")
        client.send(data, ORDER.pack(what, size))
        return client, data

    def _send(self, client: Client, number: int, size: int) -> None:
        block = memoryview(_BLOCK)[:FRAME]
        for _ in range(size // FRAME):
            client.send(number, block)


def check(got: int, wanted: int) -> None:
    if got != wanted:
        raise RuntimeError(f"{got} bytes came instead of {wanted}")


def serve_in_network_of(pid: int) -> int:
    """Start a server in the network of a process; return its own pid."""
    ready_fd, told_fd = os.pipe()
    child = os.fork()
    if not child:
        try:
            with open(f"/proc/{pid}/ns/net", "rb") as net:
                namespaces.setns(net.fileno(), namespaces.CLONE_NEWNET)
            listening = socket.create_server(("127.0.0.1", PORT), backlog=128)
            os.write(told_fd, b".")
            while True:
                threading.Thread(target=_serve, args=listening.accept()[:1]).start()
        finally:
            os._exit(1)
    os.close(told_fd)
    if not os.read(ready_fd, 1):
        raise RuntimeError(f"cannot listen in the network of process {pid}")
    os.close(ready_fd)
    return child


def _serve(sock: socket.socket) -> None:
    """Send bytes (d), take them and tell when all are there (u), or send back what comes (e)."""
    with sock, contextlib.suppress(OSError, struct.error):
        what, left = ORDER.unpack(sock.recv(ORDER.size, socket.MSG_WAITALL))
        if what == b"e":
            while data := sock.recv(len(_BLOCK)):
                sock.sendall(data)
            return
        buffer = bytearray(len(_BLOCK))
        while left:
            left -= (
                sock.send(_BLOCK[:left]) if what == b"d" else sock.recv_into(buffer, min(left, len(buffer)))
            )
        if what == b"u":
            sock.sendall(b".")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/bench-streams", description=__doc__)
    parser.add_argument(
        "endpoints", nargs="+", metavar="ENDPOINT", help="socket; ratios are the first's to the others'"
    )
    parser.add_argument(
        "--image", default="docker.io/library/busybox:latest", help="with sleep, sh, cat, dd and echo in it"
    )
    parser.add_argument("--first-bytes", type=int, default=30, help="rounds")
    parser.add_argument("--rounds", type=int, default=5, help="of throughput")
    parser.add_argument("--mib", type=int, default=512, help="each way, in each round")
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, benches: list[Bench]) -> dict[str, object]:
    for bench in benches:
        bench.first_bytes()
        bench.times.clear()
    for _ in range(options.first_bytes):
        for bench in benches:
            bench.first_bytes()
    if FIRST_BYTE[0] in benches[0].times:
        _print("from request to first byte, ms", benches, FIRST_BYTE)
    for _ in range(options.rounds):
        for bench in benches:
            bench.throughput(options.mib << 20)
    if options.rounds:
        _print("throughput, MiB/s", benches, THROUGHPUT)
        rows = {name: [{"p50": percentile(b.costs[name], 0.5)} for b in benches] for name in THROUGHPUT}
        print_table("processor time of the runtime's processes for each GiB, ms", rows)
    return {bench.runtime.endpoint: {"times": bench.times, "costs": bench.costs} for bench in benches}


def _print(title: str, benches: list[Bench], names: tuple[str, ...]) -> None:
    rows = {
        name: [
            {"p50": percentile(b.times[name], 0.5), "p95": percentile(b.times[name], 0.95)} for b in benches
        ]
        for name in names
    }
    print_table(title, rows)


def main() -> int:
    options = parse()
    runtimes: list[Runtime] = []
    benches: list[Bench] = []
    try:
        for endpoint in options.endpoints:
            runtimes.append(Runtime(endpoint, options.image))
        print("   |   ".join(f"{r.name} at {r.path}" for r in runtimes))
        for runtime in runtimes:
            benches.append(Bench(runtime))
        figures = run(options, benches)
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1))
    except grpc.RpcError as error:
        print(f"a call failed: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for bench in benches:
            bench.close()
        for runtime in runtimes:
            runtime.remove_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
