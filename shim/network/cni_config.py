"""CNI configurations and results: what is in them, and what a plugin is given (CNI specification 1.1).

Pure, but for ``find`` and ``candidates``, which read files.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.network import NetworkResult, PortMapping
from shim.network.plugin import POD_INTERFACE, SetupRequest

SUFFIXES: Final = (".conflist", ".conf", ".json")
_DEFAULT_VERSION: Final = "0.1.0"  # what a configuration without one means
_NAMES_NO_PLUGIN: Final = frozenset(("", ".", ".."))


@dataclass(frozen=True, slots=True)
class Configuration:
    """A list of plugins, each called with the result of the one before.

    Attributes:
        plugins: their configurations, as written.
    """

    name: str
    cni_version: str
    plugins: tuple[Mapping[str, Any], ...]


def candidates(directories: Iterable[str]) -> list[str]:
    """Return files that may be configurations, those of the first directory first, each by name."""
    found = []
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        found += [os.path.join(directory, name) for name in names if name.endswith(SUFFIXES)]
    return found


def find(directories: Sequence[str]) -> Configuration:
    """Return the first configuration that loads. Blocking.

    Raises:
        FailedPrecondition: there is none; says what is wrong with those that do not load.
    """
    complaints = []
    for path in candidates(directories):
        try:
            with open(path, "rb") as file:
                return parse(file.read())
        except (OSError, InvalidArgument) as error:
            complaints.append(f"{path}: {error}")
    why = "; ".join(complaints) or "a network add-on puts it there"
    raise FailedPrecondition(f"no CNI configuration in {', '.join(directories)}: {why}")


def parse(data: bytes | str) -> Configuration:
    """Return a configuration list, or a single configuration as a list of one.

    Raises:
        InvalidArgument: it is none, and why.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InvalidArgument(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument("it is no JSON object")
    plugins = document.get("plugins", [document] if "type" in document else None)
    if not isinstance(plugins, list) or not plugins:
        raise InvalidArgument("it names no plugins")
    for plugin in plugins:
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or kind in _NAMES_NO_PLUGIN or "/" in kind:
            raise InvalidArgument(f"a plugin's type must be the name of a program, not {kind!r}")
    name, version = document.get("name"), document.get("cniVersion", _DEFAULT_VERSION)
    if not isinstance(name, str) or not name or not isinstance(version, str):
        raise InvalidArgument("name and cniVersion must be texts, and the name not empty")
    return Configuration(name, version, tuple(plugins))


def format_input(
    configuration: Configuration,
    plugin: Mapping[str, Any],
    capabilities: Mapping[str, Any],
    previous: Mapping[str, Any] | None,
) -> bytes:
    """Return what a plugin reads: its configuration with what it declares to understand of this pod."""
    document = {**plugin, "name": configuration.name, "cniVersion": configuration.cni_version}
    declared = plugin.get("capabilities") or {}
    given = {key: value for key, value in capabilities.items() if declared.get(key) and value}
    if given:
        document["runtimeConfig"] = given
    if previous is not None:
        document["prevResult"] = previous
    return json.dumps(document).encode()


def format_args(request: SetupRequest) -> str:
    """Return CNI_ARGS: who the pod is. A text with a separator in it is left out."""
    pairs = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": request.namespace,
        "K8S_POD_NAME": request.name,
        "K8S_POD_INFRA_CONTAINER_ID": request.sandbox_id,
        "K8S_POD_UID": request.uid,
    }
    return ";".join(f"{key}={value}" for key, value in pairs.items() if not set(value) & set(";="))


def plan_capabilities(request: SetupRequest) -> dict[str, Any]:
    """Return what plugins may be told, by the name of the capability."""
    dns = request.dns
    servers = {"servers": dns.servers, "searches": dns.searches, "options": dns.options} if dns else {}
    return {
        "portMappings": [_port(mapping) for mapping in request.port_mappings if mapping.host_port],
        "dns": {key: list(values) for key, values in servers.items() if values},
        "cgroupPath": request.cgroup_parent,
        "io.kubernetes.cri.pod-annotations": dict(request.annotations),
    }


def _port(mapping: PortMapping) -> dict[str, Any]:
    port = {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol.name.lower(),
    }
    return {**port, "hostIP": mapping.host_ip} if mapping.host_ip else port


def passes_result_to_del(version: str) -> bool:
    """Tell whether DEL gets the result of ADD: since version 0.4.0 of the specification."""
    parts = version.split(".")
    numbers = [int(part) if part.isdigit() else 0 for part in parts]
    return numbers >= [0, 4, 0]


def parse_result(result: Mapping[str, Any]) -> NetworkResult:
    """Return what the last plugin's result says of the pod's interface, IPv4 first.

    Raises:
        FailedPrecondition: it gives the pod no address.
    """
    interfaces = result.get("interfaces") or []
    addresses = []
    for entry in result.get("ips") or []:
        index = entry.get("interface")
        if index is None or index >= len(interfaces) or interfaces[index].get("name") == POD_INTERFACE:
            addresses.append(entry["address"])
    addresses += [result[key]["ip"] for key in ("ip4", "ip6") if result.get(key)]  # before version 0.3.0
    try:
        ips = [ipaddress.ip_interface(text).ip for text in addresses]
    except ValueError as error:
        raise FailedPrecondition(f"the CNI plugin's result has no usable address: {error}") from None
    if not ips:
        raise FailedPrecondition(f"the CNI plugin's result has no address for {POD_INTERFACE}")
    inside = [each for each in interfaces if each.get("sandbox") and each.get("name") == POD_INTERFACE]
    outside = [each.get("name", "") for each in interfaces if not each.get("sandbox")]
    return NetworkResult(
        ips=tuple(str(ip) for ip in sorted(ips, key=lambda ip: ip.version)),
        interface=POD_INTERFACE,
        host_interface=next((name for name in outside if name.startswith("veth")), ""),
        mac=inside[0].get("mac", "") if inside else "",
    )
