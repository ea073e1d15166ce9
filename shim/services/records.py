"""The records of sandboxes and containers: read from memory at once, changed one after the other.

All changes of a status run in one thread, as a function of the status before: the end of a container and the
end of its start can come in any order, and neither overwrites the other's part. Reading takes no lock and no
disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from shim.errors import NotFound
from shim.model.container import ContainerMetadata, ContainerSpec, ContainerStatus
from shim.model.sandbox import SandboxMetadata, SandboxSpec, SandboxStatus
from shim.services.pools import Pool
from shim.services.views import ContainerView, SandboxView


class Records:
    """Both stores, and the thread in which they are written."""

    def __init__(self, sandboxes: SandboxStore, containers: ContainerStore, pool: Pool) -> None:
        self._sandboxes = sandboxes
        self._containers = containers
        self._pool = pool

    def resolve_sandbox(self, prefix: str) -> str | None:
        """Return the id that a prefix stands for; None if it is none's, or several's."""

    def resolve_container(self, prefix: str) -> str | None:
        """Return the id that a prefix stands for; None if it is none's, or several's."""

    def find_sandbox(self, prefix: str) -> SandboxView | None:
        """Return the sandbox with this id or unique prefix of an id; None if there is none."""

    def find_container(self, prefix: str) -> ContainerView | None:
        """Return the container with this id or unique prefix of an id; None if there is none."""

    def sandbox(self, prefix: str) -> SandboxView:
        """Return the sandbox with this id or unique prefix of an id.

        Raises:
            NotFound: there is none.
        """
        view = self.find_sandbox(prefix)
        if view is None:
            raise NotFound("sandbox", prefix)
        return view

    def container(self, prefix: str) -> ContainerView:
        """Return the container with this id or unique prefix of an id.

        Raises:
            NotFound: there is none.
        """
        view = self.find_container(prefix)
        if view is None:
            raise NotFound("container", prefix)
        return view
