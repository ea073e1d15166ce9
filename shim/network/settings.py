"""What the networks are told from outside."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_BRIDGE = "cri-shim0"


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """The built-in network.

    Attributes:
        directory: for its records; it is made if it is missing.
        quarantine: where records that cannot be read are moved to.
        bridge: name of the bridge; also sets apart the links and the table of two daemons on one node.
        subnet: ranges for pods, of IPv4, of IPv6, or one of each with a comma between: pods get addresses of
            these alone. Empty means: one of each that collides with no route of the node, chosen once.
        mtu: of pods' links; 0 means: that of the link with the default route.
        masquerade: whether what leaves the node carries the node's address.
        isolated: whether pods reach each other only by ports of the node.
    """

    directory: str
    quarantine: str
    bridge: str = DEFAULT_BRIDGE
    subnet: str = ""
    mtu: int = 0
    masquerade: bool = True
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class CniSettings:
    """CNI.

    Attributes:
        directory: for its records; it is made if it is missing.
        quarantine: where records that cannot be read are moved to.
        conf_dirs: where configurations lie; the first that loads counts.
        bin_dirs: where plugins lie.
        timeout_s: for each run of a plugin.
    """

    directory: str
    quarantine: str
    conf_dirs: tuple[str, ...] = ("/etc/cni/net.d",)
    bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")
    timeout_s: float = 60.0
