"""Which networks pods may have: today the built-in one."""

from __future__ import annotations

from typing import Final

from shim.errors import FailedPrecondition
from shim.network.bridge import BridgeNetwork
from shim.network.plugin import Network, NetworkCondition
from shim.network.settings import BridgeSettings

BUILTIN: Final = "builtin"


class Networks:
    """The networks of a node, by kind."""

    def __init__(self, bridge: BridgeSettings) -> None:
        self._bridge = BridgeNetwork(bridge)
        self._networks: dict[str, Network] = {BUILTIN: self._bridge}

    def kind(self) -> str:
        """Return the kind that a new pod gets."""
        return BUILTIN

    def get(self, kind: str) -> Network:
        """Return the network of a kind.

        Raises:
            FailedPrecondition: a record names one that this version does not have.
        """
        network = self._networks.get(kind)
        if network is None:
            raise FailedPrecondition(f"there is no network of kind {kind!r}: a newer version made this pod")
        return network

    async def status(self) -> NetworkCondition:
        """Tell whether a new pod would get a network."""
        return await self.get(self.kind()).status()

    async def update_pod_cidr(self, cidr: str) -> None:
        """Take note of the node's pod address range."""
        await self._bridge.update_pod_cidr(cidr)

    async def reconcile(self, live: set[str]) -> None:
        """Remove what belongs to no live sandbox."""
        await self._bridge.reconcile(live)

    async def remove_if_unused(self) -> None:
        """Remove what all pods shared, when there are none any more."""
        await self._bridge.remove_if_unused()

    async def close(self) -> None:
        """Finish what is under way; pods keep their networks."""
        await self._bridge.close()
