"""Flows of UDP that the kernel remembers: it goes on leading them where it led their first packet.

A client that goes on sending from one port (a resolver, a logger) would never reach the pod that has the
port now: its packets belong to a flow that is older than the rule. TCP connections end by themselves.
The kernel looks through its whole table for each question, which takes some 12 ms: on nobody's path.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h. The kernel filters what it lists since Linux 5.8.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable
from typing import Final

from shim.network import netlink
from shim.network.attributes import attribute, nest, parse
from shim.network.netlink import Message, NetlinkError, NetlinkSocket
from shim.network.nft import NETLINK_NETFILTER
from shim.network.port_mappings import PortEntry

log = logging.getLogger(__name__)

_SUBSYSTEM: Final = 1
_GET: Final = 1
_DELETE: Final = 2
_FAMILIES: Final = {4: 2, 6: 10}  # NFPROTO_*
_HEADER: Final = struct.Struct("=IHHII")
_BODY_AT: Final = 20  # nlmsghdr, nfgenmsg

_TUPLE_ORIG: Final = 1
_TUPLE_REPLY: Final = 2
_STATUS: Final = 3
_ZONE: Final = 18
_FILTER: Final = 25
_IP: Final = 1
_PROTO: Final = 2
_IP_SRC: Final = {4: 1, 6: 3}
_PROTO_NUMBER: Final = 1
_PROTO_SRC_PORT: Final = 2
_PROTO_DST_PORT: Final = 3
_BY_IP_SRC: Final = 1 << 0
_BY_NUMBER: Final = 1 << 3
_BY_SRC_PORT: Final = 1 << 4
_BY_DST_PORT: Final = 1 << 5
_SOURCE_TRANSLATED: Final = 1 << 4
_TARGET_TRANSLATED: Final = 1 << 5
_UDP: Final = bytes((socket.IPPROTO_UDP,))


def forget_led(entries: Iterable[PortEntry]) -> None:
    """Drop the flows that these ports led to their pod, which is going."""
    _forget([(entry.version, _plan_led(entry)) for entry in entries if entry.protocol == "UDP"], 0)


def forget_unled(entries: Iterable[PortEntry]) -> None:
    """Drop the flows to these ports that began before they led anywhere."""
    translated = _SOURCE_TRANSLATED | _TARGET_TRANSLATED
    _forget(
        [(entry.version, _plan_unled(entry)) for entry in entries if entry.protocol == "UDP"],
        translated,
    )


def parse_flow(data: bytes) -> tuple[int, bytes]:
    """Return (status bits, the attributes that name the flow) of a listed flow. Pure."""
    status, name = 0, b""
    for kind, value in parse(data[_BODY_AT:]):
        if kind == _STATUS:
            status = int.from_bytes(value, "big")
        elif kind == _TUPLE_ORIG:
            name += nest(kind, value)
        elif kind == _ZONE:
            name += attribute(kind, value)
    return status, name


def _forget(questions: list[tuple[int, Message]], spared: int) -> None:
    """Delete the flows that answer; those with a ``spared`` status bit stay. A failure is only logged."""
    if not questions:
        return
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as sock:
            for version, question in questions:
                flows = [parse_flow(data) for data in sock.request(question)]
                for _, name in (flow for flow in flows if not flow[0] & spared):
                    (error,) = sock.try_request(_message("drop a flow", version, _DELETE, netlink.ACK, name))
                    if error is not None and error.errno != errno.ENOENT:
                        raise error
    except NetlinkError as error:
        log.warning("UDP clients of a host port may have to begin anew: %s", error)


def _plan_led(entry: PortEntry) -> Message:
    source = attribute(_IP_SRC[entry.version], ipaddress.ip_address(entry.pod_ip).packed)
    port = attribute(_PROTO_SRC_PORT, struct.pack(">H", entry.container_port))
    which = nest(_TUPLE_REPLY, nest(_IP, source), nest(_PROTO, attribute(_PROTO_NUMBER, _UDP), port))
    return _question(entry.version, 0, _BY_IP_SRC | _BY_NUMBER | _BY_SRC_PORT, which)


def _plan_unled(entry: PortEntry) -> Message:
    port = attribute(_PROTO_DST_PORT, struct.pack(">H", entry.host_port))
    which = nest(_TUPLE_ORIG, nest(_PROTO, attribute(_PROTO_NUMBER, _UDP), port))
    return _question(entry.version, _BY_NUMBER | _BY_DST_PORT, 0, which)


def _question(version: int, of_orig: int, of_reply: int, which: bytes) -> Message:
    by = nest(
        _FILTER,
        attribute(1, struct.pack("=I", of_orig)),
        attribute(2, struct.pack("=I", of_reply)),
    )
    return _message("list flows", version, _GET, netlink.DUMP, which, by)


def _message(what: str, version: int, kind: int, flags: int, *attributes: bytes) -> Message:
    body = struct.pack(">BBH", _FAMILIES[version], 0, 0) + b"".join(attributes)
    header = _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM << 8 | kind, netlink.REQUEST | flags, 0, 0)
    return Message(what, header + body)
