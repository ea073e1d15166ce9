"""Addresses, ports and links of a pod."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass


def order_ips(ips: Sequence[str], preference: str) -> tuple[str, ...]:
    """Return addresses with the first of the preferred version of IP, which is the primary one, before all.

    Args:
        ips: as the network named them.
        preference: ``ipv4``, ``ipv6``; anything else leaves them as they are.
    """
    version = {"ipv4": 4, "ipv6": 6}.get(preference)
    first = next((ip for ip in ips if ipaddress.ip_address(ip).version == version), None)
    return tuple(ips) if first is None else (first, *(ip for ip in ips if ip != first))


class Protocol(enum.IntEnum):
    """Transport protocol of a port mapping."""

    TCP = 0
    UDP = 1
    SCTP = 2


@dataclass(frozen=True, slots=True)
class PortMapping:
    """``host_ip:host_port`` on the node leads to ``container_port``; host_port 0 means no mapping."""

    protocol: Protocol
    container_port: int
    host_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """What a network gave a pod.

    Attributes:
        ips: addresses without prefix length, the primary first.
        interface: name inside the pod.
        host_interface: name of its other end on the node, empty if unknown.
        mac: hardware address inside the pod, empty if unknown.
    """

    ips: tuple[str, ...] = ()
    interface: str = "eth0"
    host_interface: str = ""
    mac: str = ""
