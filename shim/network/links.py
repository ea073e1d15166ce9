"""Links, addresses and routes as netlink messages: pyroute2 knows the formats, ``netlink`` sends. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pyroute2.netlink.rtnl import rt_type
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from shim.network import netlink
from shim.network.netlink import Message

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_GETROUTE: Final = 26

_AF_INET: Final = 2
_IFF_UP: Final = 1
_TABLE_MAIN: Final = 254
_PROTO_STATIC: Final = 4
_SCOPE_LINK: Final = 253
_TYPE_UNICAST: Final = rt_type["unicast"]
_NEW: Final = netlink.REQUEST | netlink.ACK | netlink.CREATE | netlink.EXCL
_CHANGE: Final = netlink.REQUEST | netlink.ACK
_LINK_INDEX: Final = struct.Struct("=i")
_LINK_INDEX_AT: Final = 20  # nlmsghdr, then ifi_family, ifi_type: rtnetlink(7)
_MAC_PREFIX: Final = "0a:58"  # locally administered
_LINK_ID_DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it; ``master`` is 0 where there is none."""

    index: int
    name: str
    kind: str
    mac: str
    alias: str
    mtu: int
    master: int


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 unicast route; ``connected`` means that the destination is on the link itself."""

    destination: ipaddress.IPv4Network
    index: int
    metric: int
    connected: bool


def mac_of(address: ipaddress.IPv4Address) -> str:
    """Return the hardware address of a pod: it follows from the address, so no neighbour is stale."""
    return _MAC_PREFIX + "".join(f":{byte:02x}" for byte in address.packed)


def link_prefix(bridge: str) -> str:
    """Return how host ends of this bridge's pods begin: two bridges on one node never share it."""
    return "cs" + hashlib.sha256(bridge.encode()).hexdigest()[:3]


def link_name(bridge: str, sandbox_id: str) -> str:
    """Return the name of the host end of a sandbox's link, 15 characters."""
    return link_prefix(bridge) + sandbox_id[:_LINK_ID_DIGITS]


def _encode(
    kind: Any, number: int, flags: int, fields: Mapping[str, int], attributes: list[tuple[str, Any]]
) -> bytes:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message["header"] = {"type": number, "flags": flags, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


def encode_bridge(name: str, mac: str, mtu: int) -> Message:
    """Make a bridge, up, with an address that does not follow its ports."""
    info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", info),
    ]
    up = {"flags": _IFF_UP, "change": _IFF_UP}
    return Message(f"make bridge {name!r}", _encode(ifinfmsg, RTM_NEWLINK, _NEW, up, attributes))


def encode_veth(name: str, bridge_index: int, mtu: int, mac: str, pod_name: str, netns_fd: int) -> Message:
    """Make a link into a pod: one end up on the bridge, the other born inside the pod's namespace.

    The pod's end comes down: the kernel refuses to open it before both ends know each other.
    """
    peer = [
        ("IFLA_IFNAME", pod_name),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_NET_NS_FD", netns_fd),
    ]
    info = {
        "attrs": [
            ("IFLA_INFO_KIND", "veth"),
            ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}),
        ]
    }
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_MASTER", bridge_index),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", info),
    ]
    up = {"flags": _IFF_UP, "change": _IFF_UP}
    return Message(f"make link {name!r}", _encode(ifinfmsg, RTM_NEWLINK, _NEW, up, attributes))


def encode_link_up(index: int, name: str) -> Message:
    """Bring a link up."""
    fields = {"index": index, "flags": _IFF_UP, "change": _IFF_UP}
    return Message(f"bring {name!r} up", _encode(ifinfmsg, RTM_NEWLINK, _CHANGE, fields, []))


def encode_enslave(name: str, bridge_index: int) -> Message:
    """Put a link, by name, on a bridge."""
    attributes = [("IFLA_IFNAME", name), ("IFLA_MASTER", bridge_index)]
    return Message(f"put {name!r} on the bridge", _encode(ifinfmsg, RTM_NEWLINK, _CHANGE, {}, attributes))


def encode_hairpin(name: str) -> Message:
    """Let a link, by name, get back what came from it.

    A pod that calls itself over a port of the node needs it where the bridge shows its packets to netfilter
    (br_netfilter): the translated packet then goes from port to port, and is never routed.
    """
    data = {"attrs": [("IFLA_BRPORT_MODE", 1)]}
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data)]}
    attributes = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)]
    return Message(f"set hairpin of {name!r}", _encode(ifinfmsg, RTM_NEWLINK, _CHANGE, {}, attributes))


def encode_delete_link(name: str) -> Message:
    """Remove a link by name; the other end goes with it."""
    data = _encode(ifinfmsg, RTM_DELLINK, _CHANGE, {}, [("IFLA_IFNAME", name)])
    return Message(f"remove link {name!r}", data)


def encode_get_link(name: str) -> Message:
    """Ask for one link."""
    data = _encode(ifinfmsg, RTM_GETLINK, _CHANGE, {}, [("IFLA_IFNAME", name)])
    return Message(f"find link {name!r}", data)


def encode_get_link_by_index(index: int) -> Message:
    """Ask for one link."""
    return Message(f"find link {index}", _encode(ifinfmsg, RTM_GETLINK, _CHANGE, {"index": index}, []))


def encode_dump_links() -> Message:
    """Ask for all links."""
    flags = netlink.REQUEST | netlink.DUMP
    return Message("list links", _encode(ifinfmsg, RTM_GETLINK, flags, {}, []))


def encode_address(index: int, name: str, interface: ipaddress.IPv4Interface) -> Message:
    """Give a link an address; having it already is no error."""
    text = str(interface.ip)
    fields = {"family": _AF_INET, "prefixlen": interface.network.prefixlen, "index": index}
    attributes = [
        ("IFA_LOCAL", text),
        ("IFA_ADDRESS", text),
        ("IFA_BROADCAST", str(interface.network.broadcast_address)),
    ]
    flags = _CHANGE | netlink.CREATE | netlink.REPLACE
    return Message(f"give {name!r} {interface}", _encode(ifaddrmsg, RTM_NEWADDR, flags, fields, attributes))


def encode_delete_address(index: int, name: str, interface: ipaddress.IPv4Interface) -> Message:
    """Take an address from a link."""
    fields = {"family": _AF_INET, "prefixlen": interface.network.prefixlen, "index": index}
    data = _encode(ifaddrmsg, RTM_DELADDR, _CHANGE, fields, [("IFA_LOCAL", str(interface.ip))])
    return Message(f"take {interface} from {name!r}", data)


def encode_dump_addresses() -> Message:
    """Ask for all IPv4 addresses."""
    flags = netlink.REQUEST | netlink.DUMP
    return Message("list addresses", _encode(ifaddrmsg, RTM_GETADDR, flags, {"family": _AF_INET}, []))


def encode_default_route(index: int, gateway: ipaddress.IPv4Address) -> Message:
    """Lead everything else to the gateway."""
    fields = {
        "family": _AF_INET,
        "table": _TABLE_MAIN,
        "proto": _PROTO_STATIC,
        "type": _TYPE_UNICAST,
        "scope": 0,
    }
    attributes = [("RTA_GATEWAY", str(gateway)), ("RTA_OIF", index)]
    return Message(f"route to {gateway}", _encode(rtmsg, RTM_NEWROUTE, _NEW, fields, attributes))


def encode_dump_routes() -> Message:
    """Ask for all IPv4 routes."""
    flags = netlink.REQUEST | netlink.DUMP
    return Message("list routes", _encode(rtmsg, RTM_GETROUTE, flags, {"family": _AF_INET}, []))


def parse_index(data: bytes) -> int:
    """Return the index in an RTM_NEWLINK message; it lies in the fixed part, so nothing else is decoded."""
    return int(_LINK_INDEX.unpack_from(data, _LINK_INDEX_AT)[0])


def parse_link(data: bytes) -> Link:
    """Decode an RTM_NEWLINK message."""
    message = _decode(ifinfmsg, data)
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        kind=(info.get_attr("IFLA_INFO_KIND") if info else "") or "",
        mac=message.get_attr("IFLA_ADDRESS") or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        master=message.get_attr("IFLA_MASTER") or 0,
    )


def parse_address(data: bytes) -> tuple[int, ipaddress.IPv4Interface]:
    """Decode an RTM_NEWADDR message: (index of the link, address)."""
    message = _decode(ifaddrmsg, data)
    local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return message["index"], ipaddress.IPv4Interface(f"{local}/{message['prefixlen']}")


def parse_route(data: bytes) -> Route | None:
    """Decode an RTM_NEWROUTE message; None for anything but a unicast route."""
    message = _decode(rtmsg, data)
    if message["type"] != _TYPE_UNICAST:
        return None
    destination = message.get_attr("RTA_DST") or "0.0.0.0"  # noqa: S104  # the default route has none
    return Route(
        destination=ipaddress.IPv4Network(f"{destination}/{message['dst_len']}"),
        index=message.get_attr("RTA_OIF") or 0,
        metric=message.get_attr("RTA_PRIORITY") or 0,
        connected=message["scope"] == _SCOPE_LINK,
    )


def _decode(kind: Any, data: bytes) -> Any:
    message = kind(data)
    message.decode()
    return message
