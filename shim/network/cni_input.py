"""What a CNI plugin is told: its configuration, and who the pod is and what it wants. Pure.

Sources: CNI specification 1.1, section 3; its CONVENTIONS.md for the capabilities.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from fractions import Fraction
from typing import Any, Final

from shim.errors import InvalidArgument
from shim.model.network import PortMapping
from shim.network.cni_config import Configuration
from shim.network.plugin import SetupRequest

INGRESS: Final = "kubernetes.io/ingress-bandwidth"
EGRESS: Final = "kubernetes.io/egress-bandwidth"
MAC: Final = "cri-shim.io/mac"
INFINIBAND_GUID: Final = "cri-shim.io/infiniband-guid"

# In bits a second, the range in which Kubernetes takes these annotations; bursts are not limited.
_LEAST_RATE: Final = 1_000
_MOST_RATE: Final = 10**15
_BURST: Final = 2**31 - 1

_QUANTITY: Final = re.compile(
    r"([0-9]+\.?[0-9]*|\.[0-9]+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?"
)
_LONGEST_QUANTITY: Final = 100  # far more than any has; Python refuses to read numbers of thousands of digits
_BINARY: Final = {unit: 1 << 10 * power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_MADE_HERE: Final = "cni.dev/"  # keys that only a runtime writes


def format_input(
    configuration: Configuration,
    plugin: Mapping[str, Any],
    capabilities: Mapping[str, Any],
    previous: Mapping[str, Any] | None,
) -> bytes:
    """Return what a plugin reads at ADD, DEL and CHECK, with what it declares to understand of this pod."""
    document = _common(configuration, plugin)
    document.pop("capabilities", None)
    given = {key: capabilities[key] for key in declared(plugin) if capabilities.get(key)}
    if given:
        document["runtimeConfig"] = given
    if previous is not None:
        document["prevResult"] = previous
    return json.dumps(document).encode()


def format_status(configuration: Configuration, plugin: Mapping[str, Any]) -> bytes:
    """Return what a plugin reads at STATUS."""
    return json.dumps(_common(configuration, plugin)).encode()


def format_gc(
    configuration: Configuration, plugin: Mapping[str, Any], valid: Iterable[tuple[str, str]]
) -> bytes:
    """Return what a plugin reads at GC.

    Args:
        configuration: of the network.
        plugin: of it.
        valid: attachments that are to stay, as (container ID, interface).
    """
    attachments = [{"containerID": id_, "ifname": name} for id_, name in valid]
    # The second name was in the first text of version 1.1, and plugins were written for it.
    keys = ("cni.dev/valid-attachments", "cni.dev/attachments")
    return json.dumps(_common(configuration, plugin) | dict.fromkeys(keys, attachments)).encode()


def format_version_request() -> bytes:
    """Return what a plugin reads at VERSION. Old plugins want a configuration's version there."""
    return b'{"cniVersion": "1.0.0"}'


def _common(configuration: Configuration, plugin: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in plugin.items() if not key.startswith(_MADE_HERE)}
    return {**kept, "name": configuration.name, "cniVersion": configuration.cni_version}


def declared(plugin: Mapping[str, Any]) -> list[str]:
    """Return the capabilities that a plugin's configuration declares."""
    return [key for key, value in (plugin.get("capabilities") or {}).items() if value is True]


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


def plan_capabilities(
    request: SetupRequest, pod_cidrs: Iterable[str], wanted: Collection[str]
) -> dict[str, Any]:
    """Return what plugins may be told of a pod, by the name of the capability.

    Args:
        request: the pod.
        pod_cidrs: the node's ranges for pods, empty if nobody told them.
        wanted: the capabilities that some plugin declares; an annotation for another one is not looked at.

    Raises:
        InvalidArgument: an annotation for one of them makes no sense.
    """
    dns = request.dns
    servers = {"servers": dns.servers, "searches": dns.searches, "options": dns.options} if dns else {}
    annotations = request.annotations
    plans: dict[str, Callable[[], Any]] = {
        "portMappings": lambda: [_port(each) for each in request.port_mappings if each.host_port],
        "dns": lambda: {key: list(values) for key, values in servers.items() if values},
        "bandwidth": lambda: _bandwidth(annotations),
        "ipRanges": lambda: [[{"subnet": cidr}] for cidr in pod_cidrs],
        "aliases": lambda: list(dict.fromkeys(filter(None, (request.name, request.hostname)))),
        "mac": lambda: _octets(annotations, MAC, 6),
        "infinibandGUID": lambda: _octets(annotations, INFINIBAND_GUID, 8),
        "cgroupPath": lambda: request.cgroup_parent,
        "io.kubernetes.cri.pod-annotations": lambda: dict(annotations),
    }
    planned: dict[str, Any] = {key: plan() for key, plan in plans.items() if key in wanted}
    return {key: value for key, value in planned.items() if value}


def _port(mapping: PortMapping) -> dict[str, Any]:
    port = {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol.name.lower(),
    }
    return {**port, "hostIP": mapping.host_ip} if mapping.host_ip else port


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for annotation, name in ((INGRESS, "ingress"), (EGRESS, "egress")):
        if annotation in annotations:
            rate = parse_quantity(annotations[annotation])
            if rate is None or not _LEAST_RATE <= rate <= _MOST_RATE:
                raise InvalidArgument(
                    f"annotation {annotation} must be bits a second from 1k to 1P,"
                    f" not {annotations[annotation]!r}"
                )
            limits |= {f"{name}Rate": rate, f"{name}Burst": _BURST}
    return limits


def parse_quantity(text: str) -> int | None:
    """Return a quantity as Kubernetes writes it (``10M``, ``1.5Gi``, ``1e6``), rounded up, or None."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or len(text) > _LONGEST_QUANTITY:
        return None
    number, binary, decimal, exponent = (part or "" for part in match.groups())
    if binary:
        return math.ceil(Fraction(number) * _BINARY[binary])
    power = int(exponent) if exponent else _DECIMAL.get(decimal, 0)
    scale = Fraction(f"1e{power}")
    return math.ceil(Fraction(number) * scale)


def _octets(annotations: Mapping[str, str], annotation: str, count: int) -> str:
    """Return a hardware address from an annotation; empty where there is none."""
    text = annotations.get(annotation, "")
    if text and not re.fullmatch(rf"[0-9a-fA-F]{{2}}(:[0-9a-fA-F]{{2}}){{{count - 1}}}", text):
        raise InvalidArgument(
            f"annotation {annotation} must be {count} octets in hexadecimal with ':' between, not {text!r}"
        )
    return text.lower()


def parse_cidrs(text: str) -> tuple[str, ...]:
    """Return the ranges in a text of one or two with a comma between.

    Raises:
        InvalidArgument: one is none.
    """
    try:
        return tuple(str(ipaddress.ip_network(each.strip())) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise InvalidArgument(f"the pod CIDR {text!r} cannot be used: {error}") from None
