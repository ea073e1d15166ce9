"""Answers of the kernel, made by a library and parsed here."""

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

from shim.model.stats import InterfaceStats
from shim.network import traffic

STATS = {
    "rx_packets": 1,
    "tx_packets": 2,
    "rx_bytes": 3,
    "tx_bytes": 1 << 40,
    "rx_errors": 5,
    "tx_errors": 6,
    "rx_dropped": 7,
    "tx_dropped": 8,
}


def link(name: str, flags: int) -> bytes:
    message = ifinfmsg()
    message["flags"] = flags
    rest = {field[0]: 99 for field in ifinfmsg.ifstats64.fields if field[0] not in STATS}
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_STATS64", STATS | rest)]
    message.encode()
    return bytes(message.data)


def test_each_counter_is_what_it_says() -> None:
    assert traffic.parse_counters(link("eth0", 1)) == InterfaceStats("eth0", 3, 1, 5, 7, 1 << 40, 2, 6, 8)


def test_loopback_is_nobodys_traffic() -> None:
    assert traffic.parse_counters(link("lo", 1 | 8)) is None


def test_a_link_without_counters_is_left_out() -> None:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", "eth0")]
    message.encode()
    assert traffic.parse_counters(bytes(message.data)) is None


def test_the_id_of_a_namespace_may_be_missing() -> None:
    for attributes, nsid in (([("NETNSA_NSID", 7)], 7), ([("NETNSA_NSID", 0xFFFFFFFF)], -1), ([], -1)):
        message = nsidmsg()
        message["attrs"] = attributes
        message.encode()
        assert traffic.parse_nsid(bytes(message.data)) == nsid
