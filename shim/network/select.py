"""Which network a new pod gets: the built-in one, or CNI.

A fresh machine needs no configuration, so the built-in network is the default. A node that joins a cluster
must not hand out addresses of its own before the cluster's network add-on has come, so ``auto`` means CNI
from the moment that a CNI configuration or a kubelet's was seen. It never goes back by itself: an add-on that
removes its configuration for a moment, while it is upgraded, would find pods with foreign addresses.
"""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import FailedPrecondition, ShimError
from shim.network import cni_config
from shim.network.bridge import BridgeNetwork
from shim.network.cni import CniNetwork
from shim.network.plugin import Network, NetworkCondition
from shim.network.settings import BridgeSettings, CniSettings
from shim.store import records

log = logging.getLogger(__name__)

BUILTIN: Final = "builtin"
CNI: Final = "cni"
KUBELET_FILES: Final = ("/etc/kubernetes/kubelet.conf", "/etc/kubernetes/bootstrap-kubelet.conf")
SEEN: Final = "cni-seen.json"


class Mode(enum.StrEnum):
    """What the configuration says."""

    AUTO = "auto"
    BUILTIN = "builtin"
    CNI = "cni"


@dataclass(frozen=True, slots=True)
class CniSeen:
    """That CNI was seen, and where: what ``auto`` means from then on."""

    path: str
    version: int = 1


class Networks:
    """The networks of a node, by kind.

    Args:
        bridge: of the built-in network; its directory also keeps that CNI was seen.
        cni: of CNI; without it there is the built-in network only.
        mode: which one new pods get.
        kubelet_files: what tells that the node belongs to a cluster.
    """

    def __init__(
        self,
        bridge: BridgeSettings,
        cni: CniSettings | None = None,
        mode: Mode = Mode.AUTO,
        kubelet_files: Sequence[str] = KUBELET_FILES,
    ) -> None:
        self._bridge = BridgeNetwork(bridge)
        self._networks: dict[str, Network] = {BUILTIN: self._bridge}
        self._cni: CniNetwork | None = None
        self._conf_dirs: tuple[str, ...] = ()
        if cni is not None:
            self._networks[CNI] = self._cni = CniNetwork(cni)
            self._conf_dirs = cni.conf_dirs
        self._mode = mode if cni is not None else Mode.BUILTIN
        self._kubelet_files = kubelet_files
        self._seen_path = os.path.join(bridge.directory, SEEN)
        self._seen = os.path.exists(self._seen_path)

    def kind(self) -> str:
        """Return the kind that a new pod gets."""
        if self._mode is Mode.AUTO:
            return CNI if self._cni_was_seen() else BUILTIN
        return CNI if self._mode is Mode.CNI else BUILTIN

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

    def hand_over(self, kind: str, sandbox_id: str) -> bool:
        """Have a network go on by itself with a teardown that failed; False: it keeps no record for that."""
        if kind != CNI or self._cni is None:
            return False
        self._cni.hand_over(sandbox_id)
        return True

    async def check(self, kind: str, sandbox_id: str) -> str:
        """Return whether a pod's network is as it was made: ``ok``, what is wrong, or why none asked."""
        if kind != CNI or self._cni is None:
            return f"not asked: the network is {kind}"
        try:
            return await self._cni.check(sandbox_id)
        except (ShimError, OSError) as error:
            return str(error)

    def details(self) -> dict[str, Any]:
        """Return what a person wants to know, from memory alone."""
        cni = self._cni.details() if self._cni is not None else None
        return {"kind": self.kind(), "mode": str(self._mode), "cni": cni}

    async def update_pod_cidr(self, cidr: str) -> None:
        """Take note of the node's pod address range."""
        for network in self._networks.values():
            await network.update_pod_cidr(cidr)

    async def reconcile(self, live: set[str]) -> None:
        """Remove what belongs to no live sandbox."""
        for network in self._networks.values():
            await network.reconcile(live)

    async def remove_if_unused(self) -> None:
        """Remove what all pods shared, when there are none any more."""
        await self._bridge.remove_if_unused()

    async def close(self) -> None:
        """Finish what is under way; pods keep their networks."""
        for network in self._networks.values():
            await network.close()

    def _cni_was_seen(self) -> bool:
        if not self._seen:
            there = [path for path in self._kubelet_files if os.path.exists(path)]
            there += cni_config.candidates(self._conf_dirs)
            if there:
                log.info("pods get their network by CNI from now on, since %s is there", there[0])
                records.save(self._seen_path, CniSeen(there[0]))
                self._seen = True
        return self._seen
