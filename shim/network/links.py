"""Links, addresses and routes as netlink messages, which ``netlink`` sends. Pure.

They are a dozen, so they are written out here: a library that knows all of them costs the daemon 12 MiB and a
third of the time of making a pod's link. The tests decode them by such a library.

Source: rtnetlink(7), include/uapi/linux/if_link.h, if_addr.h, rtnetlink.h, veth.h.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
import sys
from dataclasses import dataclass
from typing import Final

from shim.network import netlink
from shim.network.attributes import attribute, native32, nest, parse, text
from shim.network.netlink import Message

_NEWLINK: Final = 16
_DELLINK: Final = 17
_GETLINK: Final = 18
_NEWADDR: Final = 20
_DELADDR: Final = 21
_GETADDR: Final = 22
_NEWROUTE: Final = 24
_GETROUTE: Final = 26

_LINK_ADDRESS: Final = 1  # IFLA_*
_LINK_NAME: Final = 3
_LINK_MTU: Final = 4
_LINK_MASTER: Final = 10
_LINK_INFO: Final = 18
_LINK_PER_FAMILY: Final = 26
_LINK_NETNS_FD: Final = 28
_INFO_KIND: Final = 1  # IFLA_INFO_*
_INFO_DATA: Final = 2
_INFO_PORT_KIND: Final = 4
_INFO_PORT_DATA: Final = 5
_VETH_PEER: Final = 1
_PORT_HAIRPIN: Final = 4  # IFLA_BRPORT_MODE
_PORT_ISOLATED: Final = 33
_IPV6_ADDRESS_MODE: Final = 8  # IFLA_INET6_ADDR_GEN_MODE
_NO_ADDRESSES: Final = 1  # IN6_ADDR_GEN_MODE_NONE
_ADDRESS: Final = 1  # IFA_*
_ADDRESS_LOCAL: Final = 2
_ADDRESS_BROADCAST: Final = 4
_ROUTE_DESTINATION: Final = 1  # RTA_*
_ROUTE_LINK: Final = 4
_ROUTE_GATEWAY: Final = 5
_ROUTE_PRIORITY: Final = 6

_AF_INET: Final = 2
_AF_INET6: Final = 10
_FAMILIES: Final = {4: _AF_INET, 6: _AF_INET6}
_NODAD: Final = 2  # IFA_F_NODAD
_UP: Final = 1
_TABLE_MAIN: Final = 254
_PROTO_STATIC: Final = 4
_SCOPE_UNIVERSE: Final = 0
_SCOPE_LINK: Final = 253
_UNICAST: Final = 1
_NEW: Final = netlink.REQUEST | netlink.ACK | netlink.CREATE | netlink.EXCL
_CHANGE: Final = netlink.REQUEST | netlink.ACK
_DUMP: Final = netlink.REQUEST | netlink.DUMP
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, which flags change
_ADDRESS_HEAD: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, link
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags
_MAC_PREFIX: Final = "0a:58"  # locally administered
_LINK_ID_DIGITS: Final = 10

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it; ``master`` is 0 where there is none."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: int


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route; ``connected`` means that the destination is on the link itself."""

    destination: Network
    index: int
    metric: int
    connected: bool


def mac_of(address: Address) -> str:
    """Return the hardware address of a pod: it follows from the address, so no neighbour is stale.

    Of an IPv6 address it is the last four bytes that count.
    """
    return _MAC_PREFIX + "".join(f":{byte:02x}" for byte in address.packed[-4:])


def link_local(mac: str) -> ipaddress.IPv6Interface:
    """Return the link-local address that follows from a hardware address (RFC 4291, appendix A)."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    packed = bytes((0xFE, 0x80, *bytes(6), first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]))
    return ipaddress.IPv6Interface((packed, 64))


def link_prefix(bridge: str) -> str:
    """Return how host ends of this bridge's pods begin: two bridges on one node never share it."""
    return "cs" + hashlib.sha256(bridge.encode()).hexdigest()[:3]


def link_name(bridge: str, sandbox_id: str) -> str:
    """Return the name of the host end of a sandbox's link, 15 characters."""
    return link_prefix(bridge) + sandbox_id[:_LINK_ID_DIGITS]


def encode_bridge(name: str, mac: str, mtu: int) -> Message:
    """Make a bridge, down, with an address that does not follow its ports."""
    info = nest(_LINK_INFO, text(_INFO_KIND, "bridge"))
    attributes = (text(_LINK_NAME, name), _mac(mac), native32(_LINK_MTU, mtu), info)
    return _message(f"make bridge {name!r}", _NEWLINK, _NEW, _link(), *attributes)


def encode_veth(name: str, bridge_index: int, mtu: int, mac: str, pod_name: str, netns_fd: int) -> Message:
    """Make a link into a pod: one end on the bridge, the other born inside the pod's namespace, both down."""
    peer = (
        text(_LINK_NAME, pod_name),
        _mac(mac),
        native32(_LINK_MTU, mtu),
        native32(_LINK_NETNS_FD, netns_fd),
    )
    data = nest(_INFO_DATA, nest(_VETH_PEER, _link(), *peer))
    info = nest(_LINK_INFO, text(_INFO_KIND, "veth"), data)
    attributes = (
        text(_LINK_NAME, name),
        native32(_LINK_MASTER, bridge_index),
        native32(_LINK_MTU, mtu),
        info,
    )
    return _message(f"make link {name!r}", _NEWLINK, _NEW, _link(), *attributes)


def encode_link_up(index: int, name: str) -> Message:
    """Bring a link up."""
    return _message(f"bring {name!r} up", _NEWLINK, _CHANGE, _link(index, up=True))


def encode_enslave(name: str, bridge_index: int) -> Message:
    """Put a link, by name, on a bridge."""
    attributes = (text(_LINK_NAME, name), native32(_LINK_MASTER, bridge_index))
    return _message(f"put {name!r} on the bridge", _NEWLINK, _CHANGE, _link(), *attributes)


def encode_port_up(name: str, *, isolated: bool) -> Message:
    """Bring a link of the bridge up, by name, and let it get back what came from it.

    A pod that calls itself over a port of the node needs it where the bridge shows its packets to netfilter
    (br_netfilter): the translated packet then goes from port to port, and is never routed.

    Args:
        name: the link's.
        isolated: the bridge passes nothing to other isolated ports.
    """
    flags = (attribute(_PORT_HAIRPIN, b"\1"), attribute(_PORT_ISOLATED, bytes((isolated,))))
    info = nest(_LINK_INFO, text(_INFO_PORT_KIND, "bridge"), nest(_INFO_PORT_DATA, *flags))
    attributes = (text(_LINK_NAME, name), info)
    return _message(f"bring {name!r} up", _NEWLINK, _CHANGE, _link(up=True), *attributes)


def encode_no_ipv6_address(name: str) -> Message:
    """Keep the kernel from giving a link, by name, a link-local address, which it would test for a second.

    The kernel takes it only of a link that is there; it comes before the link is up.
    """
    mode = nest(_AF_INET6, attribute(_IPV6_ADDRESS_MODE, bytes((_NO_ADDRESSES,))))
    attributes = (text(_LINK_NAME, name), nest(_LINK_PER_FAMILY, mode))
    return _message(f"set up IPv6 of {name!r}", _NEWLINK, _CHANGE, _link(), *attributes)


def encode_delete_link(name: str) -> Message:
    """Remove a link by name; the other end goes with it."""
    return _message(f"remove link {name!r}", _DELLINK, _CHANGE, _link(), text(_LINK_NAME, name))


def encode_get_link(name: str) -> Message:
    """Ask for one link."""
    return _message(f"find link {name!r}", _GETLINK, _CHANGE, _link(), text(_LINK_NAME, name))


def encode_get_link_by_index(index: int) -> Message:
    """Ask for one link."""
    return _message(f"find link {index}", _GETLINK, _CHANGE, _link(index))


def encode_dump_links() -> Message:
    """Ask for all links."""
    return _message("list links", _GETLINK, _DUMP, _link())


def encode_address(index: int, name: str, interface: Interface) -> Message:
    """Give a link an address; having it already is no error.

    One of IPv6 is usable at once: nobody is asked whether it is taken (no duplicate address detection).
    """
    own = [attribute(_ADDRESS_LOCAL, interface.packed), attribute(_ADDRESS, interface.packed)]
    if interface.version == 4:
        own.append(attribute(_ADDRESS_BROADCAST, interface.network.broadcast_address.packed))
    head = _address(interface, index, _NODAD if interface.version == 6 else 0)
    flags = _CHANGE | netlink.CREATE | netlink.REPLACE
    return _message(f"give {name!r} {interface}", _NEWADDR, flags, head, *own)


def encode_delete_address(index: int, name: str, interface: Interface) -> Message:
    """Take an address from a link."""
    local = attribute(_ADDRESS_LOCAL, interface.packed)
    head = _address(interface, index)
    return _message(f"take {interface} from {name!r}", _DELADDR, _CHANGE, head, local)


def encode_dump_addresses(version: int) -> Message:
    """Ask for all addresses of IP version 4 or 6."""
    return _message("list addresses", _GETADDR, _DUMP, _ADDRESS_HEAD.pack(_FAMILIES[version], 0, 0, 0, 0))


def encode_default_route(index: int, gateway: Address) -> Message:
    """Lead everything else to the gateway."""
    family = _FAMILIES[gateway.version]
    head = _ROUTE.pack(family, 0, 0, 0, _TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST, 0)
    attributes = (attribute(_ROUTE_GATEWAY, gateway.packed), native32(_ROUTE_LINK, index))
    return _message(f"route to {gateway}", _NEWROUTE, _NEW, head, *attributes)


def encode_dump_routes(version: int) -> Message:
    """Ask for all routes of IP version 4 or 6."""
    return _message("list routes", _GETROUTE, _DUMP, _ROUTE.pack(_FAMILIES[version], *[0] * 8))


def parse_index(data: bytes) -> int:
    """Return the index in an RTM_NEWLINK message."""
    return int(_LINK.unpack_from(data, _HEADER.size)[2])


def parse_link(data: bytes) -> Link:
    """Decode an RTM_NEWLINK message."""
    found = dict(parse(data[_HEADER.size + _LINK.size :]))
    info = dict(parse(found.get(_LINK_INFO, b"")))
    return Link(
        index=parse_index(data),
        name=_text(found, _LINK_NAME),
        kind=_text(info, _INFO_KIND),
        mac=found.get(_LINK_ADDRESS, b"").hex(":"),
        mtu=_number(found, _LINK_MTU),
        master=_number(found, _LINK_MASTER),
    )


def parse_address(data: bytes) -> tuple[int, Interface]:
    """Decode an RTM_NEWADDR message: (index of the link, address)."""
    family, length, _, _, index = _ADDRESS_HEAD.unpack_from(data, _HEADER.size)
    found = dict(parse(data[_HEADER.size + _ADDRESS_HEAD.size :]))
    local = found.get(_ADDRESS_LOCAL) or found[_ADDRESS]
    if family == _AF_INET6:
        return index, ipaddress.IPv6Interface((local, length))
    return index, ipaddress.IPv4Interface((local, length))


def parse_route(data: bytes) -> Route | None:
    """Decode an RTM_NEWROUTE message; None for anything but a unicast route."""
    head = _ROUTE.unpack_from(data, _HEADER.size)
    family, length, scope, kind = head[0], head[1], head[6], head[7]
    if kind != _UNICAST:
        return None
    found = dict(parse(data[_HEADER.size + _ROUTE.size :]))
    target = found.get(_ROUTE_DESTINATION, bytes(16 if family == _AF_INET6 else 4))
    destination: Network = (
        ipaddress.IPv6Network((target, length))
        if family == _AF_INET6
        else ipaddress.IPv4Network((target, length))
    )
    return Route(
        destination=destination,
        index=_number(found, _ROUTE_LINK),
        metric=_number(found, _ROUTE_PRIORITY),
        connected=scope == _SCOPE_LINK,
    )


def _message(what: str, kind: int, flags: int, head: bytes, *attributes: bytes) -> Message:
    body = head + b"".join(attributes)
    return Message(what, _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)


def _link(index: int = 0, *, up: bool = False) -> bytes:
    return _LINK.pack(0, 0, index, _UP if up else 0, _UP if up else 0)


def _address(interface: Interface, index: int, flags: int = 0) -> bytes:
    family = _FAMILIES[interface.version]
    return _ADDRESS_HEAD.pack(family, interface.network.prefixlen, flags, 0, index)


def _mac(mac: str) -> bytes:
    return attribute(_LINK_ADDRESS, bytes.fromhex(mac.replace(":", "")))


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), sys.byteorder)
