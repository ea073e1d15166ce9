"""The nftables table, decoded again by pyroute2."""

import ipaddress
from typing import Any

import pytest
from pyroute2.netlink.nfnetlink import nftsocket

from shim.network import links, nft
from shim.network.hostports import encode_entry, plan_elements, plan_table
from shim.network.netlink import Message
from shim.network.port_mappings import PortEntry

SUBNET = ipaddress.IPv4Network("10.88.0.0/16")
SUBNET6 = ipaddress.IPv6Network("fd00::/64")
WEB = PortEntry("TCP", "", 8080, "10.88.0.7", 80)
KINDS = {
    0: nftsocket.nft_table_msg,
    2: nftsocket.nft_table_msg,
    3: nftsocket.nft_chain_msg,
    6: nftsocket.nft_rule_msg,
    9: nftsocket.nft_set_msg,
    12: nftsocket.nft_set_elem_list_msg,
}


def decoded(data: bytes) -> Any:
    message = KINDS[data[4]](data)
    message.decode()
    return message


def rules_of(messages: list[Message]) -> dict[str, list[list[str]]]:
    """The names of the expressions of each rule, by chain."""
    rules: dict[str, list[list[str]]] = {}
    for message in map(decoded, (each.data for each in messages)):
        if isinstance(message, nftsocket.nft_rule_msg):
            names = [each.get_attr("NFTA_EXPR_NAME") for each in message.get_attr("NFTA_RULE_EXPRESSIONS")]
            rules.setdefault(message.get_attr("NFTA_RULE_CHAIN"), []).append(names)
    return rules


def test_an_element_is_padded_part_by_part() -> None:
    assert encode_entry(WEB) == (
        "ports",
        bytes((6, 0, 0, 0, 0x1F, 0x90, 0, 0)),
        bytes((10, 88, 0, 7, 0, 80, 0, 0)),
    )
    name, key, _ = encode_entry(PortEntry("UDP", "192.0.2.1", 53, "10.88.0.7", 53))
    assert (name, key) == ("address_ports", bytes((192, 0, 2, 1, 17, 0, 0, 0, 0, 53, 0, 0)))
    name, key, value = encode_entry(PortEntry("SCTP", "2001:db8::1", 9, "fd00::7", 9, 6))
    host, pod = ipaddress.IPv6Address("2001:db8::1").packed, ipaddress.IPv6Address("fd00::7").packed
    assert (name, key) == ("address_ports", host + bytes((132, 0, 0, 0, 0, 9, 0, 0)))
    assert value == pod + bytes((0, 9, 0, 0))


@pytest.mark.parametrize(("subnet", "family"), [(SUBNET, 2), (SUBNET6, 10)])
def test_the_table_is_replaced_as_a_whole(subnet: links.Network, family: int) -> None:
    messages = plan_table("br", subnet, masquerade=True)
    assert {message.data[16] for message in messages} == {family}
    assert [message.data[4] for message in messages[:3]] == [0, 2, 0]  # made if missing, removed, made
    chains = [decoded(message.data) for message in messages if message.data[4] == 3]
    types = {chain.get_attr("NFTA_CHAIN_NAME"): chain.get_attr("NFTA_CHAIN_TYPE") for chain in chains}
    assert set(types.values()) == ({"nat", "filter"} if family == 2 else {"nat"})
    hooks = {chain.get_attr("NFTA_CHAIN_NAME"): chain.get_attr("NFTA_CHAIN_HOOK") for chain in chains}
    numbers = {
        name: (hook.get_attr("NFTA_HOOK_HOOKNUM"), hook.get_attr("NFTA_HOOK_PRIORITY"))
        for name, hook in hooks.items()
    }
    nat = {"prerouting": (0, -100), "output": (3, -100), "postrouting": (4, 100)}
    assert numbers == nat | ({"guard": (0, -300)} if family == 2 else {})


@pytest.mark.parametrize(("subnet", "sources"), [(SUBNET, 3), (SUBNET6, 2)])  # nothing comes from ::1
def test_ports_lead_on_only_what_is_meant_for_the_node(subnet: links.Network, sources: int) -> None:
    rules = rules_of(plan_table("br", subnet, masquerade=True))
    assert rules["prerouting"] == rules["output"]
    assert all(rule[:2] == ["fib", "cmp"] and rule[-2:] == ["lookup", "nat"] for rule in rules["output"])
    guard = ["payload", "cmp", "meta", "cmp", "immediate"]
    assert rules.get("guard") == ([guard, guard] if subnet is SUBNET else None)
    assert len(rules["postrouting"]) == sources
    assert "forward" not in rules


def test_isolated_pods_meet_one_more_rule() -> None:
    rules = rules_of(plan_table("br", SUBNET6, masquerade=True, isolated=True))
    assert rules["forward"] == [["meta", "cmp", "meta", "cmp", "ct", "bitwise", "cmp", "immediate"]]


def test_what_goes_to_the_loopback_address_of_ipv6_is_led_nowhere() -> None:
    rules = rules_of(plan_table("br", SUBNET6, masquerade=True))
    assert rules["output"][1] == [
        "fib",
        "cmp",
        "payload",
        "bitwise",
        "cmp",
        "meta",
        "payload",
        "lookup",
        "nat",
    ]


def test_masquerade_can_be_left_out() -> None:
    assert len(rules_of(plan_table("br", SUBNET, masquerade=False))["postrouting"]) == 2


def test_many_ports_are_cut_into_what_a_socket_can_send() -> None:
    entries = [PortEntry("TCP", "", 1000 + n, "10.88.0.7", 80) for n in range(1200)]
    entries += [PortEntry("TCP", "", 1000 + n, "fd00::7", 80, 6) for n in range(100)]
    parts = list(plan_elements("br", entries))
    counts = [len(decoded(m.data).get_attr("NFTA_SET_ELEM_LIST_ELEMENTS")) for part in parts for m in part]
    assert counts == [500, 500, 200, 100]
    assert all(len(message.data) < 1 << 16 for part in parts for message in part)
    assert list(plan_elements("br", [])) == []


def test_a_transaction_has_a_beginning_and_an_end() -> None:
    first, table, last = nft.batch([nft.new_table(nft.Table("br", 4))])
    assert [(message.data[4], message.wants_ack) for message in (first, table, last)] == [
        (0x10, False),
        (0, True),
        (0x11, False),
    ]
