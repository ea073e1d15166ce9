"""Kernel parameters of a pod's namespaces. Pure.

Only what belongs to a namespace that the pod has for itself is ever written. Names come with dots between
their parts, or with slashes; where the first of both is a slash, a dot is part of a part (sysctl(8)).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from shim.errors import InvalidArgument
from shim.model.sandbox import SandboxSpec
from shim.runtime.plan import Plan
from shim.runtime.steps_namespaces import JoinNamespaces, OpenNamespaces, WriteSysctl

# What a program without privileges may do in a network of its own harms nobody: low ports, ping. As the CRI
# plugin of containerd does by default.
NETWORK_SYSCTLS: Final = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
# The built-in network gives no address away twice, so nobody need be asked whether it is taken; and a pod
# listens to no router advertisement, since another pod could send it (CVE-2020-10749).
BUILTIN_SYSCTLS: Final = {
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}
_BUILTIN: Final = "builtin"  # shim.network.select.BUILTIN
# Names by the kind of namespace that they belong to (namespaces(7), ipc_namespaces(7)).
_BELONGS_TO: Final = {
    "net": re.compile(r"net\..+"),
    "ipc": re.compile(r"kernel\.(shm\w+|msg\w+|sem|sem_next_id)|fs\.mqueue\..+"),
    "uts": re.compile(r"kernel\.domainname"),
}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_:*@-]+)+")
_OF_AN_INTERFACE: Final = re.compile(r"net\.\w+\.(conf|neigh)\.(?!(all|default|lo)\.)[^.]+\..+")
_MAX_VALUE: Final = 4095  # one page of the kernel's, with its NUL


def check(sysctls: Mapping[str, str], own: Collection[str]) -> dict[str, str]:
    """Return parameters by names with dots.

    Args:
        sysctls: as asked for.
        own: kinds of namespaces that the pod has for itself.

    Raises:
        InvalidArgument: names the first that cannot be set, and why.
    """
    checked: dict[str, str] = {}
    for name, value in sysctls.items():
        if not _NAME.fullmatch(name) or len(name) > _MAX_VALUE:
            raise InvalidArgument(f"{name[:64]!r} is not the name of a sysctl")
        dotted = _dotted(name)
        if dotted == "kernel.hostname":
            raise InvalidArgument(f"sysctl {name!r} cannot be set: the field hostname says what it is")
        kind = next((kind for kind, names in _BELONGS_TO.items() if names.fullmatch(dotted)), None)
        if kind is None:
            raise InvalidArgument(f"sysctl {name!r} belongs to no namespace: it would change the node")
        if kind not in own:
            raise InvalidArgument(
                f"sysctl {name!r} would change the node: this pod shares the {kind} namespace with it"
            )
        if not value or len(value) > _MAX_VALUE or not value.replace("\t", " ").isprintable():
            raise InvalidArgument(f"sysctl {name!r} cannot be {value[:64]!r}: it is one line of text")
        if checked.setdefault(dotted, value) != value:
            raise InvalidArgument(f"sysctl {name!r} is given twice, with different values")
    return checked


def plan_sysctls(spec: SandboxSpec) -> dict[str, str]:
    """Return what is set when the pod's namespaces are made: our defaults, then the request's.

    Raises:
        InvalidArgument: one cannot be set.
    """
    defaults = NETWORK_SYSCTLS if "net" in spec.pins else {}
    if "net" in spec.pins and spec.network == _BUILTIN:
        defaults = defaults | BUILTIN_SYSCTLS
    asked = check(spec.config.sysctls, spec.pins)
    return defaults | {name: value for name, value in asked.items() if not _OF_AN_INTERFACE.fullmatch(name)}


def plan_interface_sysctls(spec: SandboxSpec) -> Plan | None:
    """Return the plan that sets what belongs to an interface, which must be there; None for nothing.

    Raises:
        InvalidArgument: one cannot be set.
    """
    asked = check(spec.config.sysctls, spec.pins)
    writes = [WriteSysctl(name, value) for name, value in asked.items() if _OF_AN_INTERFACE.fullmatch(name)]
    if not writes:
        return None
    return Plan(
        "namespaces", (OpenNamespaces((("net", spec.pins["net"]),)), JoinNamespaces(("net",)), *writes)
    )


def is_optional(name: str, spec: SandboxSpec) -> bool:
    """Tell whether a kernel without this parameter is no error: nobody asked for it."""
    return name in BUILTIN_SYSCTLS and name not in check(spec.config.sysctls, spec.pins)


def is_ipc(name: str) -> bool:
    """Tell whether a name with dots belongs to an IPC namespace: the kernel lets only its root write it."""
    return _BELONGS_TO["ipc"].fullmatch(name) is not None


def _dotted(name: str) -> str:
    """Return a name with dots between its parts, and a slash for a dot in one."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))
