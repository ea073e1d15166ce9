"""The plan that opens TCP sockets in a pod's network namespace, and ends. Pure."""

from __future__ import annotations

from shim.runtime.plan import Plan
from shim.runtime.steps_namespaces import JoinNamespaces, OpenNamespaces, SendSockets


def plan_sockets(pin: str, count: int) -> Plan:
    """Return the plan.

    Args:
        pin: where the network namespace is pinned.
        count: how many sockets of each family are sent up.
    """
    return Plan("namespaces", (OpenNamespaces((("net", pin),)), JoinNamespaces(("net",)), SendSockets(count)))
