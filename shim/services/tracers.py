"""Who may look into other processes of a PID namespace, and so into ours that enter it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from shim.errors import Unavailable
from shim.kernel import capabilities
from shim.model.container import ContainerSpec
from shim.runtime.privileges import plan_capabilities

_PATIENCE_S: Final = 10.0  # they take milliseconds, unless somebody has frozen their cgroup


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


class Arrivals:
    """Processes of ours that are in a pod's PID namespaces with all their privileges still, by pod.

    What comes after a container that may trace it is kept out of sight (``plan_unseen``); what came before
    has to be through when that container starts.
    """

    def __init__(self) -> None:
        self._by_pod: dict[str, dict[asyncio.Future[None], asyncio.Future[None] | None]] = {}

    @contextmanager
    def under_way(self, sandbox_id: str, go: asyncio.Future[None] | None = None) -> Iterator[None]:
        """Take note of a process until it is a program. ``go``: what it waits for."""
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        of_pod = self._by_pod.setdefault(sandbox_id, {})
        of_pod[arrived] = go
        try:
            yield
        finally:
            arrived.set_result(None)
            del of_pod[arrived]
            if not of_pod and self._by_pod.get(sandbox_id) is of_pod:
                del self._by_pod[sandbox_id]

    async def end(self, sandbox_id: str) -> None:
        """Send home those of a pod that wait for a go, and return when the others have arrived, too.

        Raises:
            Unavailable: one of them is stuck.
        """
        of_pod = dict(self._by_pod.get(sandbox_id, {}))
        if not of_pod:
            return
        for go in of_pod.values():
            if go is not None:
                go.cancel()
        _, stuck = await asyncio.wait(of_pod, timeout=_PATIENCE_S)
        if stuck:
            raise Unavailable(
                f"cannot start a container with SYS_PTRACE in sandbox {sandbox_id!r} now: {len(stuck)} execs"
                " or containers that it could take over are on their way into it"
            )
