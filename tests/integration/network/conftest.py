"""A small world for networks: a node, its pods, and a machine outside, each a network namespace of its own.

A body runs in a forked child that is root of a user namespace, so nothing of the machine can be touched. The
child's network namespace is the node. Other namespaces are entered by threads that end right after.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

from shim.kernel import namespaces
from shim.model.network import NetworkResult, PortMapping
from shim.network import links, nft, node_side
from shim.network.bridge import BridgeNetwork
from shim.network.netlink import NetlinkSocket
from shim.network.plugin import Network, SetupRequest
from shim.network.settings import BridgeSettings

T = TypeVar("T")

NET = namespaces.KINDS["net"]
BRIDGE = "cri-shim-test0"
OUTSIDE, NODE = "192.0.2.2", "192.0.2.1"
OUTSIDE6, NODE6 = "2001:db8::2", "2001:db8::1"
PATIENCE_S = 60 if "CRI_SHIM_VM" in os.environ else 20  # of sockets; an emulated processor is slow
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Namespace:
    """A network namespace with its loopback up."""

    def __init__(self) -> None:
        self.fd, self.netlink = _in_thread(_make)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    def do(self, function: Callable[[], T]) -> T:
        """Return what a function returns in there; sockets that it makes stay in there."""

        def enter() -> T:
            namespaces.setns(self.fd, NET)
            return function()

        return _in_thread(enter)

    def connect(self, address: str, port: int) -> Callable[[], socket.socket]:
        """Return what connects from in here."""
        return lambda: self.do(lambda: socket.create_connection((address, port), timeout=PATIENCE_S))

    def listen(
        self,
        port: int,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        protocol: int = 0,
        address: str = "::",
    ) -> socket.socket:
        """Listen on all addresses of both versions of IP; IPv4 peers are seen as such."""
        return self.do(lambda: listening(address, port, kind, protocol))

    def close(self) -> None:
        os.close(self.fd)
        self.netlink.close()


def _in_thread(function: Callable[[], T]) -> T:
    answers: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            answers.append((True, function()))
        except BaseException as error:  # noqa: BLE001  # it is raised again by who waits
            answers.append((False, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    ok, value = answers[0]
    if not ok:
        raise value
    return value


def _make() -> tuple[int, socket.socket]:
    namespaces.unshare(NET)
    loopback_up()
    fd = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    return fd, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = array.array("B", struct.pack("16sH14x", b"lo", 0))
        fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


class World:
    """The node, with a network under test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bridge_name = BRIDGE
        self.network: Network = self.bridge()
        self.pods: dict[str, Namespace] = {}
        self.results: dict[str, NetworkResult] = {}

    def bridge(self, name: str = BRIDGE, **settings: Any) -> BridgeNetwork:
        place = self.directory / name
        return BridgeNetwork(BridgeSettings(str(place), str(place / "quarantine"), name, **settings))

    async def pod(
        self, number: int, *ports: PortMapping, prepare: Callable[[Namespace], None] | None = None
    ) -> Namespace:
        """Make a pod; its addresses are in ``results``.

        Args:
            number: its own, up to 255.
            ports: of the node.
            prepare: is called with the namespace before the network comes.
        """
        pod = Namespace()
        if prepare is not None:
            prepare(pod)
        request = SetupRequest(
            sandbox_id=sandbox(number),
            name=f"pod{number}",
            namespace="default",
            uid=f"uid{number}",
            netns_path=pod.path,
            netlink_fd=pod.netlink.fileno(),
            port_mappings=ports,
        )
        try:
            self.results[sandbox(number)] = await self.network.setup(request)
        except BaseException:
            pod.close()
            raise
        self.pods[sandbox(number)] = pod
        return pod

    def address(self, number: int, version: int = 4) -> str:
        ips = map(ipaddress.ip_address, self.results[sandbox(number)].ips)
        return next(str(ip) for ip in ips if ip.version == version)

    def gateway(self, version: int = 4) -> str:
        """The address of the node on the bridge."""
        prefix_length = {4: 16, 6: 64}[version]
        pod = ipaddress.ip_interface(f"{next(iter(self.results.values())).ips[version == 6]}/{prefix_length}")
        return str(pod.network[1])

    async def end(self, number: int, *, namespace_first: bool = False) -> None:
        """Tear a pod down, its namespace after or before its network."""
        pod = self.pods.pop(sandbox(number))
        if namespace_first:
            pod.close()
        await self.network.teardown(sandbox(number), pod.path)
        if not namespace_first:
            pod.close()

    async def settled(self) -> None:
        """Wait until what the network does after its answers is done."""
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.005)

    async def restart(self) -> None:
        """Go on as a new daemon does, which knows only what is on disk."""
        self.network = self.bridge()

    def links(self) -> set[str]:
        with NetlinkSocket(node_side.NETLINK_ROUTE) as route:
            return {link.name for link in node_side.dump_links(route)}

    def tables(self) -> list[str]:
        """The nftables tables that are there, of those that the tests make."""
        found = []
        with NetlinkSocket(nft.NETLINK_NETFILTER) as netfilter:
            for name in (BRIDGE, "cri-shim-test1"):
                tables = [nft.get_table(nft.Table(name, version)) for version in (4, 6)]
                if None in netfilter.try_request(*tables):
                    found.append(name)
        return found

    def remove_link(self, name: str) -> None:
        node_side.delete_link(name)

    def rename(self, name: str, to: str) -> None:
        subprocess.run(["ip", "link", "set", name, "down"], check=True)
        subprocess.run(["ip", "link", "set", name, "name", to, "up"], check=True)

    def give(self, link: str, address: str) -> None:
        at_once = ["nodad"] if ":" in address else []
        subprocess.run(["ip", "address", "add", address, "dev", link, *at_once], check=True)

    def route_to(self, machine: Namespace) -> None:
        """Lead what is for nobody here to the machine outside."""
        del machine
        subprocess.run(["ip", "route", "add", "default", "via", OUTSIDE], check=True)

    def protect_switches(self) -> None:
        """Make /proc/sys read-only, as it is in many containers."""
        subprocess.run(["mount", "--bind", "/proc/sys", "/proc/sys"], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", "/proc/sys"], check=True)

    def nft(self, *commands: str) -> None:
        subprocess.run(["nft", "; ".join(commands)], check=True)

    def in_file(self, path: str) -> IO[bytes]:
        return open(path, "rb")  # the process ends with it

    def lead_by_gateway(self, pod: Namespace, version: int) -> None:
        """Have a pod send to its neighbours by way of the node."""
        for number in range(1, len(self.results) + 1):
            address, length = self.address(number, version), {4: 32, 6: 128}[version]
            command = [
                "ip",
                f"-{version}",
                "route",
                "add",
                f"{address}/{length}",
                "via",
                self.gateway(version),
            ]
            if address not in self.results[sandbox(2)].ips:
                pod.do(lambda command=command: subprocess.run(command, check=True))  # type: ignore[misc]

    def remove_table(self, name: str, version: int = 4) -> None:
        with NetlinkSocket(nft.NETLINK_NETFILTER) as netfilter:
            netfilter.request(*nft.batch([nft.delete_table(nft.Table(name, version))]))

    def listen(
        self, port: int, address: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> socket.socket:
        """Listen on the node."""
        return listening(address, port, kind)

    def leases(self) -> list[str]:
        return sorted(path.stem for path in (self.directory / BRIDGE / "leases").glob("[!.]*"))

    def call(self, server: socket.socket, connect: Callable[[], socket.socket]) -> str:
        """Connect, check that it is ``server`` who answers, and return whom it saw."""
        with connect() as client:
            accepted, peer = server.accept()
            with accepted:
                accepted.sendall(b"hello")
                assert client.recv(5) == b"hello"
            return plain(peer[0])

    def ask(self, server: socket.socket, client: socket.socket, address: str, port: int) -> str:
        """Send a datagram, check that it is ``server`` who answers, and return whom it saw."""
        client.settimeout(PATIENCE_S)
        client.sendto(b"ping", (address, port))
        data, peer = server.recvfrom(100)
        server.sendto(data[::-1], peer)
        data, answers = client.recvfrom(100)
        assert (data, answers[:2]) == (b"gnip", (address, port))
        return plain(peer[0])

    def send_frame(self, pod: Namespace, source: str, target: str, port: int) -> None:
        """Send a datagram to the node's hardware address, past the pod's own routing."""
        ends_of_it = [ipaddress.ip_address(each).packed for each in (source, target)]
        data = struct.pack(">HHHH", port, port, 12, 0) + b"let!"
        if ":" in source:
            pseudo = b"".join(ends_of_it) + struct.pack(">II", len(data), socket.IPPROTO_UDP) + data
            data = data[:6] + checksum(pseudo) + data[8:]
            packet = struct.pack(">IHBB", 6 << 28, len(data), socket.IPPROTO_UDP, 64) + b"".join(ends_of_it)
            kind = b"\x86\xdd"
        else:
            head = (0x45, 0, 20 + len(data), 0, 0, 64, socket.IPPROTO_UDP, 0)
            packet = struct.pack(">BBHHHBBH4s4s", *head, *ends_of_it)
            packet = packet[:10] + checksum(packet) + packet[12:]
            kind = b"\x08\0"
        ends = [links.mac_of(ipaddress.IPv4Address(each)) for each in ("10.88.0.1", self.address(1))]
        frame = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in ends) + kind
        with pod.do(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sock:
            sock.sendto(frame + packet + data, ("eth0", 0))

    def connect(self, address: str, port: int) -> Callable[[], socket.socket]:
        """Return what connects from the node."""
        return lambda: socket.create_connection((address, port), timeout=PATIENCE_S)

    def sandbox(self, number: int) -> str:
        return sandbox(number)

    @contextlib.contextmanager
    def outside(self, mtu: int = 1500) -> Iterator[Namespace]:
        """Yield a machine on the other end of the node's uplink, which knows no route to pods."""
        there = Namespace()
        with NetlinkSocket(node_side.NETLINK_ROUTE) as here:
            here.request(links.encode_veth("uplink", 0, mtu, "02:00:00:00:00:02", "eth0", there.fd))
            _configure(here, "uplink", NODE, NODE6)
        with NetlinkSocket(node_side.NETLINK_ROUTE, there.netlink.fileno()) as far:
            _configure(far, "eth0", OUTSIDE, OUTSIDE6)
        try:
            yield there
        finally:
            there.close()


def _configure(route: NetlinkSocket, name: str, address: str, address6: str) -> None:
    index = links.parse_index(route.request(links.encode_get_link(name))[0])
    route.request(
        links.encode_no_ipv6_address(name),
        links.encode_link_up(index, name),
        links.encode_address(index, name, ipaddress.IPv4Interface(f"{address}/24")),
        links.encode_address(index, name, ipaddress.IPv6Interface(f"{address6}/64")),
        links.encode_address(index, name, links.link_local(f"02:00:00:00:00:{address[-1]:0>2}")),
    )


def listening(
    address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM, protocol: int = 0
) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, protocol)
    sock.settimeout(PATIENCE_S)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def checksum(data: bytes) -> bytes:
    """Return the checksum of RFC 1071 over an even number of bytes."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


def plain(address: str) -> str:
    """Return an address as people write it: that of an IPv4 peer of an IPv6 socket as IPv4."""
    ip = ipaddress.ip_address(address)
    return str((ip.ipv4_mapped if ip.version == 6 else None) or ip)


def sandbox(number: int) -> str:
    return f"{number:02x}" * 32


@pytest.fixture
def on_node(
    tmp_path: Path, in_namespaces: Callable[[Callable[[], Any]], Any]
) -> Callable[[Callable[[World], Awaitable[Any]]], Any]:
    """Return what an async body returns that runs on a node of its own."""

    def run(body: Callable[[World], Awaitable[Any]]) -> Any:
        def go() -> Any:
            loopback_up()

            async def main() -> Any:
                return await body(World(tmp_path))

            return asyncio.run(main())

        return in_namespaces(go)

    return run
