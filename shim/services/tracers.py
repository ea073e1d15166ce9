"""Who may look into other processes of a PID namespace, and so into ours that enter it."""

from __future__ import annotations

from collections.abc import Iterable

from shim.kernel import capabilities
from shim.model.container import ContainerSpec
from shim.runtime.privileges import plan_capabilities


def has_tracer(specs: Iterable[ContainerSpec], available: int) -> bool:
    """Return whether any of some containers has SYS_PTRACE over processes of the node's user namespace. Pure.

    A privileged container does not count: it has the node anyway.

    Args:
        specs: the containers of a pod; any may share its PID namespace with any other.
        available: the capabilities that the node can give.
    """
    wanted = 1 << capabilities.parse("SYS_PTRACE")
    return any(
        spec.userns is None
        and not spec.config.security.privileged
        and plan_capabilities(spec.config.security, available)[0] & wanted
        for spec in specs
    )
