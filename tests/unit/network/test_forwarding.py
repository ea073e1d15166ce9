"""What of other programs keeps packets of pods from being forwarded."""

import pytest
from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg

from shim.network.forwarding import Chain, describe, describe_legacy, in_the_way, parse_chain, parse_legacy

DOCKERS = Chain("ip", "filter", "FORWARD")


def chain(family: int = 2, hook: int | None = 2, policy: int | None = 0, table: str = "filter") -> bytes:
    """What the kernel says of a chain, encoded by a library."""
    message = nft_chain_msg()
    message["nfgen_family"] = family
    attributes: list[tuple[str, object]] = [("NFTA_CHAIN_TABLE", table), ("NFTA_CHAIN_NAME", "FORWARD")]
    if hook is not None:
        attributes.append(("NFTA_CHAIN_HOOK", {"attrs": [("NFTA_HOOK_HOOKNUM", hook)]}))
    if policy is not None:
        attributes.append(("NFTA_CHAIN_POLICY", policy))
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (chain(), DOCKERS),
        (chain(family=1), Chain("inet", "filter", "FORWARD")),
        (chain(family=10), Chain("ip6", "filter", "FORWARD")),
        (chain(policy=1), None),
        (chain(family=1, policy=1, table="firewalld"), Chain("inet", "firewalld", "FORWARD")),
        (chain(hook=1), None),
        (chain(hook=None, policy=None), None),  # one that others jump to
        (chain(family=7), None),  # of bridges
    ],
)
def test_a_chain_that_forwards_only_what_it_knows(data: bytes, expected: Chain | None) -> None:
    assert parse_chain(data) == expected


def test_a_table_that_names_the_bridge_is_in_nobodys_way() -> None:
    rule = b"..cri-shim0\0\0\0\0\0.."
    assert in_the_way([DOCKERS], [("ip", "filter", rule)], "cri-shim0") == []
    assert in_the_way([DOCKERS], [("ip", "filter", rule)], "cri-shim") == [DOCKERS]
    assert in_the_way([DOCKERS], [("ip6", "filter", rule)], "cri-shim0") == [DOCKERS]


def test_each_has_a_remedy() -> None:
    assert describe(DOCKERS, "br0") == (
        "nftables chain 'ip filter FORWARD' of another program drops what the node forwards: pods reach"
        " nobody outside",
        "nft insert rule ip filter FORWARD iifname br0 accept"
        " && nft insert rule ip filter FORWARD oifname br0 accept",
    )
    assert "--add-interface=br0" in describe(Chain("inet", "firewalld", "filter_FORWARD"), "br0")[1]
    assert describe_legacy("iptables-legacy", "br0")[1] == (
        "iptables-legacy -I FORWARD -i br0 -j ACCEPT && iptables-legacy -I FORWARD -o br0 -j ACCEPT"
    )


def test_older_rules() -> None:
    assert parse_legacy("-P INPUT ACCEPT\n-P FORWARD DROP\n", "br0")
    assert not parse_legacy("-P FORWARD ACCEPT\n", "br0")
    assert not parse_legacy("-P FORWARD DROP\n-A FORWARD -i br0 -j ACCEPT\n", "br0")
