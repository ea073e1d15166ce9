"""CNI with the plugins that everybody has (Debian's containernetworking-plugins), in common chains."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from tests.integration.socket.conftest import running, scratch_directory

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon() -> Iterator[Any]:
    with running(scratch_directory(), "--set=network.cni_timeout_s=30") as it:
        yield it


def host_local(daemon: Any, *subnets: str) -> dict[str, Any]:
    return {
        "type": "host-local",
        "dataDir": f"{daemon.scratch}/ipam",
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
    }


def bridge(name: str = "cst-cni0", **more: Any) -> dict[str, Any]:
    return {"type": "bridge", "bridge": name, "isGateway": True, "hairpinMode": True, **more}


PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
TUNING = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "capabilities": {"mac": True}}
FIREWALL = {"type": "firewall"}


class World:
    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.file = daemon.scratch / "net.d" / "10-net.conflist"
        self.file.parent.mkdir(exist_ok=True)

    def configure(self, *plugins: dict[str, Any], version: str = "1.0.0", **more: Any) -> None:
        document = {"cniVersion": version, "name": "net", "plugins": plugins} | more
        self.file.write_text(json.dumps(document))

    def status(self, id_: str) -> tuple[list[str], str]:
        """A pod's addresses, and what CHECK says."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=id_, verbose=True)
        answer = self.daemon.runtime.PodSandboxStatus(request)
        network = answer.status.network
        check = json.loads(answer.info["info"])["network"]["check"]
        return [network.ip, *(each.ip for each in network.additional_ips)], check

    def in_pod(self, id_: str, *command: str) -> str:
        pin = f"--net={self.daemon.scratch}/netns/cri-shim-{id_}"
        return subprocess.run(["nsenter", pin, *command], capture_output=True, text=True, check=True).stdout

    def on_node(self, *command: str) -> list[str]:
        return self.daemon.in_netns(*command).stdout.splitlines()

    def things(self) -> dict[str, object]:
        """What pods have of CNI: links, addresses, rules, records."""
        place = self.daemon.root / "network/cni"
        ipam = self.daemon.scratch / "ipam/net"
        links = {line.split(":")[1].split("@")[0].strip() for line in self.on_node("ip", "-o", "link")}
        rules = [
            line
            for command in ("iptables-save", "ip6tables-save")
            for line in self.on_node(command)
            if line.startswith("-A")
        ]
        return {
            "links": sorted(links - {self.daemon.bridge}),
            "rules": sorted(rules),
            "nft": [line for line in self.on_node("nft", "list", "ruleset") if "elements" in line],
            "records": sorted(os.listdir(place)) if place.exists() else [],
            "addresses": sorted(
                name for name in (os.listdir(ipam) if ipam.exists() else []) if name[0].isdigit()
            ),
            "pins": sorted(os.listdir(f"{self.daemon.scratch}/netns")),
        }

    def idle(self) -> dict[str, object]:
        """What there is when no pod has anything any more; it is waited for."""

        def is_idle() -> bool:
            found = self.things()
            return not any(found[key] for key in ("records", "addresses", "pins"))

        self.daemon.until(is_idle)
        return self.things()

    def run_pod(self, *ports: int, **annotations: str) -> str:
        config = self.daemon.pod_config(
            port_mappings=[cri.PortMapping(container_port=80, host_port=port) for port in ports]
        )
        for key, value in annotations.items():
            config.annotations[f"kubernetes.io/{key.replace('_', '-')}-bandwidth"] = value
        return str(self.daemon.run_pod(config)[0])


@pytest.fixture
def world(daemon: Any) -> World:
    return World(daemon)


@contextmanager
def serving(world: World, pod: str) -> Iterator[None]:
    """Answer on port 80 in a pod, to both versions of IP."""
    program = (
        "import socket\n"
        "server = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "while True:\n"
        "    with server.accept()[0] as client: client.sendall(b'hello')\n"
    )
    pin = f"--net={world.daemon.scratch}/netns/cri-shim-{pod}"
    server = subprocess.Popen(["nsenter", pin, sys.executable, "-c", program])
    try:
        yield
    finally:
        server.kill()
        server.wait()


def ask(world: World, address: str, port: int, pod: str = "") -> str:
    """Connect from the node, or from a pod, and return what is answered."""
    program = (
        "import socket, sys\n"
        "with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as s:\n"
        "    print(s.recv(99).decode())"
    )
    pin = f"{world.daemon.scratch}/netns/cri-shim-{pod}" if pod else f"/run/netns/{world.daemon.netns}"
    done = subprocess.run(
        ["nsenter", f"--net={pin}", sys.executable, "-c", program, address, str(port)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip()


def test_bridge_portmap_bandwidth_firewall_and_tuning_with_both_versions_of_ip(world: World) -> None:
    ipam = host_local(world.daemon, "10.99.0.0/24", "fd99::/64")
    chain = (bridge(ipam=ipam, ipMasq=True), PORTMAP, BANDWIDTH, FIREWALL, TUNING)
    world.configure(*chain, disableCheck=True)  # portmap expects rules of IPv6 that it never made
    world.daemon.remove(world.run_pod(8080, ingress="10M"))  # what all pods share is there from now on
    before = world.idle()
    one, two = world.run_pod(8080, ingress="10M", egress="20M"), world.run_pod()
    ips, check = world.status(one)
    assert [ipaddress.ip_address(ip).version for ip in ips] == [4, 6]
    assert check.endswith("sets disableCheck")
    ways = (
        (ips[0], 80, ""),
        (ips[0], 80, two),
        (ips[1], 80, two),
        ("10.99.0.1", 8080, two),
        ("10.99.0.1", 8080, one),  # hairpin
        ("10.99.0.1", 8080, ""),
    )
    with serving(world, one):
        for way in ways:
            world.daemon.until(lambda way=way: ask(world, *way) == "hello")
    assert any("rate 10Mbit" in line for line in world.on_node("tc", "qdisc"))
    assert any("rate 20Mbit" in line for line in world.on_node("tc", "qdisc"))
    assert world.in_pod(one, "cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter") == "1\n"
    world.daemon.restart()
    for pod in (one, two):
        world.daemon.remove(pod)
    world.daemon.until(lambda: world.things() == before)


@pytest.mark.parametrize(
    ("version", "more"),
    [
        ("0.3.1", {}),
        ("0.4.0", {}),
        ("1.0.0", {"disableCheck": True}),
        ("1.1.0", {"cniVersions": ["0.4.0", "1.0.0"]}),  # Debian's speak 1.0.0 at most
    ],
)
def test_every_version_of_the_specification(world: World, version: str, more: dict[str, Any]) -> None:
    world.configure(bridge(ipam=host_local(world.daemon, "10.99.0.0/24")), TUNING, version=version, **more)
    pod = world.run_pod()
    ips, check = world.status(pod)
    assert ips[0].startswith("10.99.0.")
    assert check == "ok" or version == "0.3.1" or more.get("disableCheck")
    if check == "ok":
        world.in_pod(pod, "ip", "address", "flush", "dev", "eth0")
        assert "CNI plugin 'bridge' (CHECK) of network 'net'" in world.status(pod)[1]
    world.daemon.remove(pod)
    world.idle()


@pytest.fixture
def uplink(world: World) -> Iterator[str]:
    """The name of a link of the node that leads away from it."""
    world.on_node("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "uplink1")
    world.on_node("ip", "link", "set", "uplink0", "up")
    world.on_node("ip", "link", "set", "uplink1", "up")
    yield "uplink0"
    world.on_node("ip", "link", "delete", "uplink0")


def need(world: World, kind: str, uplink: str) -> None:
    """Skip where the kernel has no such links."""
    done = world.daemon.in_netns("ip", "link", "add", "probe0", "link", uplink, "type", kind)
    if done.returncode:
        pytest.skip(f"this kernel has no {kind}: {done.stderr.strip()}")
    world.on_node("ip", "link", "delete", "probe0")


@pytest.mark.parametrize("kind", ["static", "ptp", "macvlan", "ipvlan", "single"])
def test_other_plugins(world: World, uplink: str, kind: str) -> None:
    daemon = world.daemon
    if kind.endswith("vlan"):
        need(world, kind, uplink)
    fixed = {"type": "static", "addresses": [{"address": "10.98.0.7/24", "gateway": "10.98.0.1"}]}
    ipam = host_local(daemon, "10.97.0.0/24", "fd97::/64")
    chains = {
        "static": [bridge("cst-cni1", ipam=fixed)],
        "ptp": [{"type": "ptp", "ipMasq": True, "ipam": ipam}],
        "macvlan": [{"type": "macvlan", "master": uplink, "mode": "bridge", "ipam": ipam}],
        "ipvlan": [{"type": "ipvlan", "master": uplink, "mode": "l2", "ipam": ipam}],
        "single": [bridge("cst-cni2", ipam=ipam)],
    }
    if kind == "single":
        single = {"cniVersion": "0.4.0", "name": "net", **chains[kind][0]}
        world.file.write_text(json.dumps(single))
    else:
        world.configure(*chains[kind])
    daemon.remove(world.run_pod())
    before = world.idle()
    pod = world.run_pod()
    ips, check = world.status(pod)
    assert check == "ok"
    assert ips[0] == "10.98.0.7" if kind == "static" else [ip[:4] for ip in ips] == ["10.9", "fd97"]
    assert ips[0] in world.in_pod(pod, "ip", "-o", "addr", "show", "dev", "eth0")
    pods = [pod]
    if kind != "static":  # it has one address, for one pod
        pods.append(world.run_pod())
        with serving(world, pod):
            for ip in ips:
                daemon.until(lambda ip=ip: ask(world, ip, 80, pods[1]) == "hello")
    daemon.restart()
    for each in pods:
        daemon.remove(each)
    daemon.until(lambda: world.things() == before)


def test_a_used_up_pool_is_an_error_with_nothing_left(world: World) -> None:
    world.configure(bridge("cst-cni3", ipam=host_local(world.daemon, "10.99.9.0/30")))
    pod = world.run_pod()
    with pytest.raises(Exception, match="no IP addresses available"):
        world.run_pod()
    assert len(world.things()["pins"]) == 1  # type: ignore[arg-type]
    world.daemon.remove(pod)
    world.daemon.until(lambda: not world.things()["records"])


def test_pods_come_and_go_with_kills_of_the_daemon(world: World) -> None:
    """The short form of hack/churn-cni."""
    script = Path(__file__).parents[3] / "hack/churn-cni"
    done = subprocess.run(
        [str(script), "--pods", "12", "--at-once", "6", "--kills", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
