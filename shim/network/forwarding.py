"""Rules of other programs that keep the node from forwarding: docker's, firewalld's and more.

A packet must be accepted by every chain of the forward hook, so nothing in a table of ours can let it pass;
and rules in a table of somebody else's are not ours to write. What is in the way is told with its remedy.

Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from shim.network import nft
from shim.network.attributes import parse
from shim.network.netlink import NetlinkSocket

FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}
_FAMILY_AT: Final = 16
_BODY_AT: Final = 20  # nlmsghdr, nfgenmsg
_DROP: Final = 0
_FIREWALLD: Final = "firewalld"  # its chain has the policy accept, and a rule at its end that rejects


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of the forward hook that lets nothing pass but what a rule of it accepts.

    Attributes:
        family: ``ip``, ``ip6`` or ``inet``.
    """

    family: str
    table: str
    name: str


def parse_chain(data: bytes) -> Chain | None:
    """Decode an NFT_MSG_NEWCHAIN message; None for a chain that is in nobody's way. Pure."""
    found = dict(parse(data[_BODY_AT:]))
    hook = dict(parse(found.get(4, b"")))
    family = FAMILIES.get(data[_FAMILY_AT])
    number, policy = (int.from_bytes(each, "big") for each in (hook.get(1, b""), found.get(5, b"\1")))
    chain = Chain(family or "", _text(found, 1), _text(found, 3))
    drops = policy == _DROP or chain.table == _FIREWALLD
    return chain if family and 1 in hook and number == nft.FORWARD and drops else None


def in_the_way(chains: Iterable[Chain], rules: Iterable[tuple[str, str, bytes]], bridge: str) -> list[Chain]:
    """Return the chains whose table has no rule that names the bridge. Pure.

    Args:
        chains: that drop.
        rules: (family, table, encoded rule) of their tables.
        bridge: name of ours.
    """
    name = bridge.encode() + b"\0"
    known = {(family, table) for family, table, rule in rules if name in rule}
    return [chain for chain in chains if (chain.family, chain.table) not in known]


def find(bridge: str) -> list[Chain]:
    """Return what drops packets of pods on this node.

    Raises:
        NetlinkError: the kernel has no nftables, or does not answer.
    """
    with NetlinkSocket(nft.NETLINK_NETFILTER) as sock:
        chains = [chain for chain in map(parse_chain, sock.request(nft.dump_chains())) if chain is not None]
        if not chains:
            return []
        return in_the_way(chains, _rules(sock, chains), bridge)


def describe(chain: Chain, bridge: str) -> tuple[str, str]:
    """Return (what is wrong, what to do). Pure."""
    where = f"{chain.family} {chain.table} {chain.name}"
    wrong = (
        f"nftables chain {where!r} of another program drops what the node forwards: pods reach nobody outside"
    )
    if chain.table == _FIREWALLD:
        return (
            wrong,
            f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload",
        )
    inserts = [f"nft insert rule {where} {key} {bridge} accept" for key in ("iifname", "oifname")]
    return wrong, " && ".join(inserts)


def parse_legacy(listing: str, bridge: str) -> bool:
    """Tell whether a chain that ``iptables-legacy -S`` lists drops packets of pods. Pure."""
    return "-P FORWARD DROP" in listing.splitlines() and bridge not in listing.split()


def find_legacy(bridge: str) -> list[str]:
    """Return the programs whose rules, which are older than nftables, drop packets of pods; it runs them.

    Programs of that name load what they look for into the kernel, so they are asked only where it is in use.
    """
    found = []
    for program, names in (("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names")):
        try:
            with open(f"/proc/net/{names}") as file:
                if "filter" not in file.read().split():
                    continue
            done = subprocess.run([program, "-S"], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if parse_legacy(done.stdout, bridge):
            found.append(program)
    return found


def describe_legacy(program: str, bridge: str) -> tuple[str, str]:
    """Return (what is wrong, what to do). Pure."""
    wrong = f"{program} has a policy DROP for what the node forwards: pods reach nobody outside"
    return wrong, " && ".join(f"{program} -I FORWARD {flag} {bridge} -j ACCEPT" for flag in ("-i", "-o"))


def _rules(sock: NetlinkSocket, chains: Iterable[Chain]) -> Iterator[tuple[str, str, bytes]]:
    numbers = {name: number for number, name in FAMILIES.items()}
    for family, table in sorted({(chain.family, chain.table) for chain in chains}):
        for data in sock.request(nft.dump_rules(numbers[family], table)):
            yield family, table, data


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")
