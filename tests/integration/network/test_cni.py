"""CNI with the plugins that everybody has."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shim.model.network import PortMapping, Protocol
from shim.network.cni import CniNetwork
from shim.network.settings import CniSettings

pytestmark = pytest.mark.root

OnNode = Callable[[Callable[[Any], Awaitable[Any]]], Any]
BRIDGE = "cri-shim-testc"


def settings(world: Any) -> CniSettings:
    ipam = {
        "type": "host-local",
        "dataDir": str(world.directory / "ipam"),
        "ranges": [[{"subnet": "10.99.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": ipam},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
    ]
    conf_dir = world.directory / "net.d"
    conf_dir.mkdir(exist_ok=True)
    (conf_dir / "10-test.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "test", "plugins": plugins})
    )
    return CniSettings(str(world.directory / "cni"), str(world.directory / "q"), (str(conf_dir),))


def test_a_pod_has_what_the_plugins_give_it_until_they_take_it_back(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        world.network = CniNetwork(settings(world))
        assert (await world.network.status()).ready
        pod = await world.pod(1, PortMapping(Protocol.TCP, 80, 0))
        result = world.results[world.sandbox(1)]
        assert result.ips == ("10.99.0.2",)
        assert result.host_interface in world.links()
        assert world.call(pod.listen(80), world.connect("10.99.0.2", 80)) == "10.99.0.1"
        await world.network.close()

        world.network = CniNetwork(settings(world))
        await world.end(1)
        assert world.links() == {"lo", BRIDGE}
        assert list((world.directory / "cni").iterdir()) == []
        await world.network.close()

    on_node(body)


def test_what_a_crash_left_is_taken_back_without_the_namespace(on_node: OnNode) -> None:
    async def body(world: Any) -> None:
        world.network = CniNetwork(settings(world))
        pod = await world.pod(1)
        pod.close()
        await world.network.reconcile(set())
        reserved = [path.name for path in (world.directory / "ipam/test").iterdir()]
        assert "10.99.0.2" not in reserved
        await world.network.close()

    on_node(body)
