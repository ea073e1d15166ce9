"""Links, addresses, routes: encoded here, decoded by a library, and the other way round."""

import ipaddress

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from shim.network import links

GATEWAY = ipaddress.IPv4Address("10.88.0.1")


def decoded(data: bytes) -> ifinfmsg:
    message = ifinfmsg(data)
    message.decode()
    return message


def test_names_fit_and_tell_bridges_apart() -> None:
    name = links.link_name("cri-shim0", "ab" * 32)
    assert len(name) == 15
    assert name.startswith(links.link_prefix("cri-shim0"))
    assert not name.startswith(links.link_prefix("cri-shim1"))


def test_the_hardware_address_follows_from_the_address() -> None:
    assert links.mac_of(ipaddress.IPv4Address("10.88.1.255")) == "0a:58:0a:58:01:ff"
    assert links.mac_of(ipaddress.IPv6Address("fd00::1:2")) == "0a:58:00:01:00:02"


def test_a_pods_end_is_born_in_its_namespace() -> None:
    message = decoded(links.encode_veth("host", 5, 1400, "0a:58:0a:58:00:02", "eth0", 9).data)
    peer = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert (message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_MASTER")) == ("host", 5)
    assert (message["flags"], peer["flags"]) == (0, 0)
    assert [peer.get_attr(name) for name in ("IFLA_IFNAME", "IFLA_MTU", "IFLA_NET_NS_FD")] == [
        "eth0",
        1400,
        9,
    ]


def test_hairpin_is_asked_for_as_a_bridges_port() -> None:
    info = decoded(links.encode_port_up("host", isolated=True).data).get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    port = info.get_attr("IFLA_INFO_SLAVE_DATA")
    assert (port.get_attr("IFLA_BRPORT_MODE"), port.get_attr("IFLA_BRPORT_ISOLATED")) == (1, 1)


def test_the_kernel_is_told_to_make_no_address() -> None:
    spec = decoded(links.encode_no_ipv6_address("host").data).get_attr("IFLA_AF_SPEC")
    assert spec.get_attr("AF_INET6").get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1


def test_a_link_local_address_follows_from_the_hardware_address() -> None:
    assert str(links.link_local("0a:58:0a:58:00:01")) == "fe80::858:aff:fe58:1/64"


def test_a_link_is_read_as_it_was_written() -> None:
    message = links.encode_bridge("cri-shim-test", "0a:58:0a:58:00:01", 1400)
    link = links.parse_link(message.data)
    assert (link.name, link.kind, link.mac, link.mtu) == (
        "cri-shim-test",
        "bridge",
        "0a:58:0a:58:00:01",
        1400,
    )
    assert links.parse_index(links.encode_link_up(7, "x").data) == 7


def test_an_address_is_read_as_it_was_written() -> None:
    interface = ipaddress.IPv4Interface("10.88.0.1/16")
    data = links.encode_address(3, "x", interface).data
    assert links.parse_address(data) == (3, interface)
    message = ifaddrmsg(data)
    message.decode()
    assert (message["family"], message["prefixlen"], message["index"]) == (2, 16, 3)
    assert message.get_attr("IFA_LOCAL") == message.get_attr("IFA_ADDRESS") == "10.88.0.1"
    assert message.get_attr("IFA_BROADCAST") == "10.88.255.255"


def test_an_address_of_ipv6_is_not_looked_for_elsewhere() -> None:
    interface = ipaddress.IPv6Interface("fd00::1/64")
    data = links.encode_address(3, "x", interface).data
    assert links.parse_address(data) == (3, interface)
    message = ifaddrmsg(data)
    message.decode()
    assert (message["family"], message["prefixlen"], message["flags"]) == (10, 64, 0x02)  # IFA_F_NODAD
    assert message.get_attr("IFA_LOCAL") == "fd00::1"
    assert message.get_attr("IFA_BROADCAST") is None


def test_a_default_route_of_ipv6_is_read_as_it_was_written() -> None:
    data = links.encode_default_route(3, ipaddress.IPv6Address("fd00::1")).data
    message = rtmsg(data)
    message.decode()
    assert (message["family"], message.get_attr("RTA_GATEWAY")) == (10, "fd00::1")
    assert links.parse_route(data) == links.Route(ipaddress.IPv6Network("::/0"), 3, 0, connected=False)


def test_a_default_route_has_no_destination() -> None:
    data = links.encode_default_route(3, GATEWAY).data
    message = rtmsg(data)
    message.decode()
    assert (message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_OIF")) == ("10.88.0.1", 3)
    assert (message["table"], message["type"], message["dst_len"]) == (254, 1, 0)
    route = links.parse_route(data)
    assert route == links.Route(ipaddress.IPv4Network("0.0.0.0/0"), 3, 0, connected=False)


def test_a_route_of_another_program_is_read() -> None:
    message = rtmsg()
    message.update({"family": 2, "dst_len": 24, "type": 1, "scope": 253, "table": 254})
    message["attrs"] = [("RTA_DST", "192.0.2.0"), ("RTA_OIF", 4), ("RTA_PRIORITY", 100)]
    message.encode()
    expected = links.Route(ipaddress.IPv4Network("192.0.2.0/24"), 4, 100, connected=True)
    assert links.parse_route(bytes(message.data)) == expected


def test_a_route_that_is_not_unicast_is_no_route() -> None:
    message = rtmsg()
    message["type"] = 3  # broadcast
    message.encode()
    assert links.parse_route(bytes(message.data)) is None
