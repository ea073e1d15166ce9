"""What the doctor says of CNI."""

import json
from pathlib import Path
from typing import Any

import pytest

from shim.network.cni_config import Configuration
from shim.network.cni_records import CniRecord, Failure, Store
from shim.network.cni_survey import Places, problems
from shim.network.select import Mode

ID = "ab" * 32


class Node:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("opt/cni/bin/bridge", "").chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def configure(self, *kinds: str) -> None:
        document = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": kind} for kind in kinds]}
        self.write("etc/cni/net.d/10-net.conflist", json.dumps(document))

    def sandbox(self, id_: str, network: str, **status: Any) -> None:
        metadata = {"name": f"pod-{id_}", "namespace": "default"}
        place = f"var/lib/cri-shim/sandboxes/{id_}"
        self.write(f"{place}/spec.json", json.dumps({"network": network, "config": {"metadata": metadata}}))
        self.write(f"{place}/status.json", json.dumps(status))

    def problems(self, mode: Mode = Mode.AUTO) -> list[tuple[str, bool]]:
        places = Places(
            str(self.root),
            mode,
            ("/etc/cni/net.d",),
            ("/opt/cni/bin",),
            "/var/lib/cri-shim/network",
            "/var/lib/cri-shim/sandboxes",
        )
        assert all(problem.remedy for problem in problems(places))
        return [(problem.found, problem.stops_pods) for problem in problems(places)]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_node_that_uses_none_is_not_told_of_it(node: Node) -> None:
    node.sandbox("a", "builtin")
    assert node.problems() == []
    node.configure("missing")
    assert node.problems(Mode.BUILTIN) == []


def test_nothing_is_wrong_with_one_that_can_be_used(node: Node) -> None:
    node.configure("bridge")
    node.sandbox("a", "cni")
    assert node.problems() == []


@pytest.mark.parametrize("sign", ["etc/kubernetes/kubelet.conf", "var/lib/cri-shim/network/cni-seen.json"])
def test_a_node_that_waits_for_one_is_told_so(node: Node, sign: str) -> None:
    node.write(sign, "")
    ((found, stops),) = node.problems()
    assert "no configuration in /etc/cni/net.d" in found
    assert not stops


def test_files_that_cannot_be_used_and_plugins_that_are_missing_are_named(node: Node) -> None:
    node.write("etc/cni/net.d/05-broken.conf", "{")
    ((found, stops),) = node.problems()
    assert "05-broken.conf: it is not JSON" in found
    assert stops
    node.configure("bridge", "portmap", "portmap")
    (broken, stops_now), (missing, stops_too) = node.problems()
    assert broken == found
    assert "CNI plugin 'portmap' of network 'net'" in missing
    assert "is in none of /opt/cni/bin" in missing
    assert (stops_now, stops_too) == (False, True)


def test_a_key_that_is_there_twice_is_told(node: Node) -> None:
    node.write("etc/cni/net.d/10.conf", '{"name":"a","name":"net","type":"bridge","cniVersion":"1.0.0"}')
    ((found, stops),) = node.problems()
    assert "key 'name' is there more than once" in found
    assert not stops


@pytest.mark.parametrize(("tries", "times"), [(1, "tried once"), (7, "tried 7 times")])
def test_what_waits_is_told_with_its_age_and_its_last_error(node: Node, tries: int, times: str) -> None:
    store = Store(str(node.root / "var/lib/cri-shim/network/cni"), "")
    configuration = Configuration("net", "1.0.0", ({"type": "x"},))
    store.save(CniRecord("cd" * 32, configuration, "/n", ""))
    failure = Failure(1_700_000_000_000_000_000, 0, tries, "the plugin broke")
    store.save(CniRecord(ID, configuration, "/n", "", failure=failure))
    ((found, stops),) = node.problems(Mode.BUILTIN)
    assert found == (
        f"the CNI network 'net' of sandbox {ID} is not taken back since 2023-11-14T22:13:20+00:00, {times}, "
        "at last: the plugin broke"
    )
    assert not stops


def test_pods_of_the_built_in_network_are_listed_after_the_switch(node: Node) -> None:
    node.configure("bridge")
    node.sandbox("a", "builtin", stopped_at_ns=0)
    node.sandbox("b", "builtin", stopped_at_ns=5)
    node.sandbox("c", "cni")
    node.sandbox("d", "host")
    node.write("var/lib/cri-shim/sandboxes/e/spec.json", "[]")
    ((found, stops),) = node.problems()
    assert found.endswith("before CNI was seen here still run: default/pod-a")
    assert not stops
