"""Results of CNI plugins: what is in them, in each version of the specification. Pure.

    until 0.2.0    ip4 and ip6, one address each
    0.3.0, 0.4.0   interfaces, ips (each with its version, "4" or "6"), routes, dns
    1.0.0          the same without the version of an address
    1.1.0          more about interfaces (mtu, socketPath, pciID) and about routes (mtu, advmss, priority,
                   table, scope)

A result is kept and handed on in the version that the network's plugins are called with, whatever version the
plugin that made it has written.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from shim.errors import FailedPrecondition
from shim.model.network import NetworkResult
from shim.network import cni_versions
from shim.network.plugin import POD_INTERFACE

_NEW_OF_INTERFACES: Final = ("mtu", "socketPath", "pciID")
_NEW_OF_ROUTES: Final = ("mtu", "advmss", "priority", "table", "scope")


def check(result: Mapping[str, Any]) -> None:
    """Check that a result has the shape of one.

    Raises:
        FailedPrecondition: it has not, and what is wrong.
    """
    version = result.get("cniVersion", "")
    if version and version not in cni_versions.KNOWN:
        raise FailedPrecondition(f"the result is of CNI version {version!r}, which nobody here knows")
    for key in ("interfaces", "ips", "routes"):
        entries = result.get(key)
        if entries is None:
            continue
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise FailedPrecondition(f"the result's {key!r} is no list of objects")
    for entry in result.get("ips") or ():
        _check_address(entry, len(result.get("interfaces") or ()))
    for key in ("ip4", "ip6"):
        if result.get(key) and not (isinstance(result[key], dict) and isinstance(result[key].get("ip"), str)):
            raise FailedPrecondition(f"the result's {key!r} has no address")


def _check_address(entry: Mapping[str, Any], interfaces: int) -> None:
    address, index = entry.get("address"), entry.get("interface")
    if not isinstance(address, str):
        raise FailedPrecondition(f"an entry of the result's 'ips' has no address: {entry!r}")
    try:
        ipaddress.ip_interface(address)
    except ValueError as error:
        raise FailedPrecondition(f"the result has no usable address: {error}") from None
    if index is not None and (not isinstance(index, int) or isinstance(index, bool) or index < 0):
        raise FailedPrecondition(f"the result's address {address} is of interface {index!r}: no index")
    if index is not None and interfaces and index >= interfaces:
        raise FailedPrecondition(
            f"the result's address {address} is of interface {index}, there are {interfaces}"
        )


def convert(result: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return a result in another version; what that version does not know is left out.

    Args:
        result: of any known version; without one it is of ``version`` already.
        version: a known one.
    """
    before = result.get("cniVersion") or version
    if before == version:
        return {**result, "cniVersion": version}
    document = _to_current(result) if before in ("0.1.0", "0.2.0") else dict(result)
    document["ips"] = [_without(entry, ("version",)) for entry in document.get("ips") or ()]
    if not cni_versions.is_at_least(version, "1.1.0"):
        for key, new in (("interfaces", _NEW_OF_INTERFACES), ("routes", _NEW_OF_ROUTES)):
            if document.get(key):
                document[key] = [_without(entry, new) for entry in document[key]]
    if not cni_versions.is_at_least(version, "0.3.0"):
        document = _to_first(document)
    elif not cni_versions.is_at_least(version, "1.0.0"):
        document["ips"] = [{"version": _family(entry["address"]), **entry} for entry in document["ips"]]
    return document | {"cniVersion": version}


def _without(entry: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


def _family(address: str) -> str:
    return str(ipaddress.ip_interface(address).version)


def _to_current(result: Mapping[str, Any]) -> dict[str, Any]:
    """From ip4 and ip6 to a list."""
    document = _without(result, ("ip4", "ip6"))
    document["ips"], document["routes"] = [], []
    for key in ("ip4", "ip6"):
        part = result.get(key)
        if part:
            gateway = {"gateway": part["gateway"]} if part.get("gateway") else {}
            document["ips"].append({"address": part["ip"], **gateway})
            document["routes"] += part.get("routes") or []
    return document


def _to_first(document: Mapping[str, Any]) -> dict[str, Any]:
    """From a list to ip4 and ip6: the first address of each family."""
    parts: dict[str, Any] = {}
    for entry in document["ips"]:
        key = f"ip{_family(entry['address'])}"
        gateway = {"gateway": entry["gateway"]} if entry.get("gateway") else {}
        parts.setdefault(key, {"ip": entry["address"], **gateway, "routes": []})
    for route in document.get("routes") or ():
        key = f"ip{_family(route['dst'])}"
        if key in parts:
            parts[key]["routes"].append(route)
    return _without(document, ("ips", "routes", "interfaces")) | parts


def parse(result: Mapping[str, Any]) -> NetworkResult:
    """Return what the last plugin's result says of the pod's interface; addresses in its order.

    Raises:
        FailedPrecondition: it gives the pod no address.
    """
    check(result)
    interfaces = result.get("interfaces") or []
    addresses = []
    for entry in result.get("ips") or []:
        index = entry.get("interface")
        if index is None or not interfaces or interfaces[index].get("name") == POD_INTERFACE:
            addresses.append(entry["address"])
    addresses += [result[key]["ip"] for key in ("ip4", "ip6") if result.get(key)]
    try:
        ips = [ipaddress.ip_interface(text).ip for text in addresses]
    except ValueError as error:
        raise FailedPrecondition(f"the result has no usable address: {error}") from None
    if not ips:
        raise FailedPrecondition(f"the result has no address for {POD_INTERFACE}")
    inside = [each for each in interfaces if each.get("sandbox") and each.get("name") == POD_INTERFACE]
    outside = [str(each.get("name", "")) for each in interfaces if not each.get("sandbox")]
    return NetworkResult(
        ips=tuple(dict.fromkeys(str(ip) for ip in ips)),
        interface=POD_INTERFACE,
        host_interface=next((name for name in outside if name.startswith("veth")), ""),
        mac=str(inside[0].get("mac", "")) if inside else "",
    )
