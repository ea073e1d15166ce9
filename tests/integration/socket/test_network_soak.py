"""Many pods at once that all reach each other, and many that come and go while the daemon is killed.

The ordinary run has a few; ``hack/soak-network`` runs this with as many as a node has.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import random
import selectors
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.kernel import namespaces
from shim.network import links

pytestmark = pytest.mark.root

T = TypeVar("T")
PODS = int(os.environ.get("CRI_SHIM_SOAK_PODS", "8"))
CHURN = int(os.environ.get("CRI_SHIM_SOAK_CHURN", "24"))
KILLS = int(os.environ.get("CRI_SHIM_SOAK_KILLS", "2"))
AT_ONCE = 8
PORT = 7777
FEW = 50  # fewer pods than this have room in the kernel's table of neighbours
PATIENCE_S = 120 if PODS > FEW else 60
OUTSIDE = ("192.0.2.2", "2001:db8::2")
_RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)


def inside(path: str, function: Callable[[], T]) -> T:
    """Return what a function returns in a network namespace; sockets that it makes stay in there."""

    def enter() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(fd, namespaces.KINDS["net"])
        finally:
            os.close(fd)
        return function()

    with ThreadPoolExecutor(1) as pool:  # its thread ends here, and with it the stay in there
        return pool.submit(enter).result()


def listening() -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", PORT))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


class Answerer(threading.Thread):
    """Takes every connection, and closes it."""

    def __init__(self, servers: list[socket.socket]) -> None:
        super().__init__()
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = socket.socketpair()
        for each in (*servers, self._reader):
            self._selector.register(each, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._reader:
                    return
                assert isinstance(key.fileobj, socket.socket)
                try:
                    accepted, _ = key.fileobj.accept()
                except BlockingIOError:
                    continue
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_WHEN_CLOSED)
                accepted.close()

    def end(self) -> None:
        self._writer.send(b"!")
        self.join()
        self._selector.close()
        self._reader.close()
        self._writer.close()


@contextmanager
def internet(daemon: Any) -> Iterator[str]:
    """Yield the path of a namespace that the node's default routes lead to, and that knows no pod."""
    name, node = daemon.netns + "-o", daemon.netns
    for command in (
        f"ip netns add {name}",
        f"ip -n {name} link set lo up",
        f"ip -n {node} link add uplink type veth peer name eth0 netns {name}",
        f"ip -n {node} address add 192.0.2.1/24 dev uplink",
        f"ip -n {node} address add 2001:db8::1/64 dev uplink nodad",
        f"ip -n {name} address add {OUTSIDE[0]}/24 dev eth0",
        f"ip -n {name} address add {OUTSIDE[1]}/64 dev eth0 nodad",
        f"ip -n {node} link set uplink up",
        f"ip -n {name} link set eth0 up",
        f"ip -n {node} route add default via {OUTSIDE[0]}",
        f"ip -n {node} -6 route add default via {OUTSIDE[1]}",
    ):
        subprocess.run(command.split(), check=True)
    try:
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
        daemon.until(lambda: "uplink" not in daemon.in_netns("ip", "-o", "link").stdout)


Target = tuple[str, str]  # path of a namespace, address


def connect(targets: list[Target]) -> dict[socket.socket, Target]:
    """Begin to connect from namespaces to addresses."""
    waiting: dict[socket.socket, Target] = {}
    for path, group in itertools.groupby(targets, lambda target: target[0]):
        ips = [ip for _, ip in group]

        def make(ips: list[str] = ips) -> list[socket.socket]:
            return [socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) for ip in ips]

        for sock, ip in zip(inside(path, make), ips, strict=True):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_WHEN_CLOSED)
            assert sock.connect_ex((ip, PORT)) in (0, errno.EINPROGRESS), f"{path} to {ip}"
            waiting[sock] = (path, ip)
    return waiting


def call(targets: list[Target]) -> None:
    """Connect from namespaces to addresses, all at once; wait until each has answered."""
    deadline = time.monotonic() + PATIENCE_S
    with selectors.DefaultSelector() as selector:
        for sock, target in connect(targets).items():
            selector.register(sock, selectors.EVENT_WRITE, target)
        while selector.get_map():
            assert time.monotonic() < deadline, f"unanswered: {len(selector.get_map())}"
            for key, _ in selector.select(1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                selector.unregister(sock)
                sock.close()
                # Answered, and perhaps closed already.
                assert error in (0, errno.ECONNRESET), f"{key.data}: {os.strerror(error)}"


def introduce(paths: list[str], ips: list[list[str]]) -> None:
    """Tell each pod the hardware addresses of the others: the kernel keeps 1,024 that it asked for."""
    macs = [links.mac_of(ipaddress.ip_address(own[0])) for own in ips]
    lines = "".join(
        f"neighbour add {ip} lladdr {mac} nud permanent dev eth0\n"
        for own, mac in zip(ips, macs, strict=True)
        for ip in own
    )
    for path in paths:
        subprocess.run(["nsenter", f"--net={path}", "ip", "-batch", "-"], input=lines, text=True, check=True)


def test_all_pods_reach_each_other_and_the_outside(daemon: Any) -> None:
    with internet(daemon) as outside, ThreadPoolExecutor(PODS) as pool:
        ids = [id_ for id_, _ in pool.map(lambda _: daemon.run_pod(), range(PODS))]
        paths = [f"{daemon.scratch}/netns/cri-shim-{id_}" for id_ in ids]
        ips = [addresses(daemon, id_) for id_ in ids]
        every = list(itertools.chain(*ips))
        assert len(set(every)) == 2 * PODS
        assert all([ipaddress.ip_address(ip).version for ip in each] == [4, 6] for each in ips)
        if PODS > FEW:
            introduce(paths, ips)
        servers = [inside(path, listening) for path in (*paths, outside)]
        answerer = Answerer(servers)
        answerer.start()
        try:
            call([(path, ip) for path, own in zip(paths, ips, strict=True) for ip in (*OUTSIDE, *own)])
            for distance in range(1, PODS // 2 + 1):
                others = [(number, (number + distance) % PODS) for number in range(PODS)]
                call([(paths[one], ip) for one, other in others for ip in ips[other]])
                call([(paths[other], ip) for one, other in others for ip in ips[one]])
        finally:
            answerer.end()
            for each in servers:
                each.close()
        list(pool.map(daemon.remove, ids))
    assert leftovers(daemon) == NOTHING


def addresses(daemon: Any, id_: str) -> list[str]:
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=id_)
    network = daemon.runtime.PodSandboxStatus(request).status.network
    return [network.ip, *(each.ip for each in network.additional_ips)]


NOTHING: dict[str, list[str]] = {"links": [], "netns": [], "elements": [], "leases": [], "pins": []}


def leftovers(daemon: Any) -> dict[str, list[str]]:
    """What pods left, once what is removed in the background is."""

    def look() -> dict[str, list[str]]:
        prefix = links.link_prefix(daemon.bridge)
        shown = daemon.in_netns("ip", "-o", "link").stdout.splitlines()
        rules = daemon.in_netns("nft", "list", "ruleset").stdout.splitlines()
        return {
            "links": [line for line in shown if line.split(": ")[1].startswith(prefix)],
            "netns": os.listdir(f"{daemon.scratch}/netns"),
            "elements": [line for line in rules if "elements" in line],
            "leases": os.listdir(f"{daemon.root}/network/leases"),
            "pins": [
                line
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if str(daemon.state) in line
            ],
        }

    deadline = time.monotonic() + PATIENCE_S
    while (found := look()) != NOTHING and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


class Churn:
    """Pods that come and go, as from a caller that asks again when nobody answers."""

    def __init__(self, daemon: Any) -> None:
        self._daemon = daemon
        self._up = threading.Event()
        self._up.set()
        self._given_up = False
        self.errors: list[str] = []

    def patiently(self, ask: Callable[[], T]) -> T:
        """Return an answer; a daemon that is not there is waited for."""
        while True:
            self._up.wait()
            assert not self._given_up, "the daemon did not come back"
            try:
                return ask()
            except (grpc.RpcError, ValueError) as error:
                # ValueError: a call over a channel that was closed meanwhile.
                code = error.code() if isinstance(error, grpc.RpcError) else None
                if code not in (None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                time.sleep(0.05)

    def one(self, number: int) -> None:
        """Run a pod with a port of the node, and remove it."""
        daemon = self._daemon
        port = cri.PortMapping(protocol=number % 2, container_port=80, host_port=20000 + number)
        config = daemon.pod_config(port_mappings=[port])
        try:
            id_ = self.patiently(lambda: self._run(config))
            request = cri.StopPodSandboxRequest(pod_sandbox_id=id_)
            self.patiently(lambda: daemon.runtime.StopPodSandbox(request))
            gone = cri.RemovePodSandboxRequest(pod_sandbox_id=id_)
            self.patiently(lambda: daemon.runtime.RemovePodSandbox(gone))
        except grpc.RpcError as error:
            self.errors.append(f"pod {number}: {error.code().name}: {error.details()}")

    def _run(self, config: cri.PodSandboxConfig) -> str:
        """Run a pod; one that a killed daemon made and could not tell of is collected."""
        name = config.metadata
        for item in self._daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
            if item.metadata.uid == name.uid:
                if item.state == cri.SANDBOX_READY:
                    return str(item.id)
                self._daemon.remove(item.id)
        id_, _ = self._daemon.run_pod(config)
        return str(id_)

    def kill(self) -> None:
        """Kill the daemon in the middle, and start another."""
        self._up.clear()
        try:
            self._daemon.restart(signal.SIGKILL)
        except BaseException:
            self._given_up = True
            raise
        finally:
            self._up.set()


def test_pods_that_come_and_go_while_the_daemon_is_killed_leave_nothing(daemon: Any) -> None:
    churn = Churn(daemon)
    kill_at = sorted(random.Random(1).sample(range(CHURN), KILLS))  # noqa: S311  # no secret
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(churn.one, number) for number in range(CHURN)]
        for number in kill_at:
            daemon.until(lambda number=number: waiting[number].running() or waiting[number].done(), 600)
            churn.kill()
        for each in waiting:
            each.result()
    assert churn.errors == []
    daemon.remove_all()
    assert leftovers(daemon) == NOTHING
    id_, _ = daemon.run_pod()
    assert len(addresses(daemon, id_)) == 2
