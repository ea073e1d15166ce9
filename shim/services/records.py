"""The records of sandboxes and containers: read from memory at once, changed one after the other.

All changes of a status run in one thread, as a function of the status before: the end of a container and the
end of its start can come in any order, and neither overwrites the other's part. Reading takes no lock and no
disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from shim.errors import NotFound
from shim.model.container import ContainerMetadata, ContainerSpec, ContainerStatus
from shim.model.sandbox import SandboxMetadata, SandboxSpec, SandboxStatus
from shim.services import events
from shim.services.events import Event, Events, EventType
from shim.services.views import ContainerView, SandboxView
from shim.store.containers import ContainerStore
from shim.store.sandboxes import SandboxStore
from shim.threads import Pool

_Loop = asyncio.AbstractEventLoop


class Records:
    """Both stores, and the thread in which they are written.

    Attributes:
        events: who is told of changes.
    """

    def __init__(self, sandboxes: SandboxStore, containers: ContainerStore, pool: Pool) -> None:
        self._sandboxes = sandboxes
        self._containers = containers
        self._pool = pool
        self.events = Events()

    # Reading

    @property
    def sandbox_count(self) -> int:
        """How many sandboxes there are."""
        return len(self._sandboxes)

    @property
    def container_count(self) -> int:
        """How many containers there are."""
        return len(self._containers)

    @property
    def sandbox_changes(self) -> int:
        """A number that counts up with every change of a sandbox, once it can be seen."""
        return self._sandboxes.changes

    @property
    def container_changes(self) -> int:
        """A number that counts up with every change of a container, once it can be seen."""
        return self._containers.changes

    def is_known(self, id_: str) -> bool:
        """Tell whether a whole id is a sandbox's or a container's."""
        return self.has_container(id_) or self._sandboxes.resolve_prefix(id_) == id_

    def has_container(self, id_: str) -> bool:
        """Tell whether a whole id is a container's."""
        return self._containers.resolve_prefix(id_) == id_

    def resolve_sandbox(self, prefix: str) -> str | None:
        """Return the id that a prefix stands for; None if it is none's, or several's."""
        return self._sandboxes.resolve_prefix(prefix)

    def resolve_container(self, prefix: str) -> str | None:
        """Return the id that a prefix stands for; None if it is none's, or several's."""
        return self._containers.resolve_prefix(prefix)

    def find_sandbox(self, prefix: str) -> SandboxView | None:
        """Return the sandbox with this id or unique prefix of an id; None if there is none."""
        id_ = self.resolve_sandbox(prefix)
        return SandboxView(*self._sandboxes.get(id_)) if id_ is not None else None

    def find_container(self, prefix: str) -> ContainerView | None:
        """Return the container with this id or unique prefix of an id; None if there is none."""
        id_ = self.resolve_container(prefix)
        return ContainerView(*self._containers.get(id_)) if id_ is not None else None

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

    def sandbox_by_name(self, name: SandboxMetadata) -> SandboxView | None:
        """Return the sandbox of this pod and attempt; None if there is none."""
        id_ = self._sandboxes.by_name((name.name, name.namespace, name.uid, name.attempt))
        return self.find_sandbox(id_) if id_ is not None else None

    def container_by_name(self, sandbox_id: str, name: ContainerMetadata) -> ContainerView | None:
        """Return the container of this sandbox, name and attempt; None if there is none."""
        id_ = self._containers.by_name((sandbox_id, name.name, name.attempt))
        return self.find_container(id_) if id_ is not None else None

    def sandboxes(self) -> Iterator[SandboxView]:
        """Return all sandboxes as they are now."""
        return (SandboxView(spec, status) for spec, status in self._sandboxes.list())

    def containers(self) -> Iterator[ContainerView]:
        """Return all containers as they are now."""
        return (ContainerView(spec, status) for spec, status in self._containers.list())

    def containers_of(self, sandbox_id: str) -> list[ContainerView]:
        """Return the containers of a sandbox, by its whole id."""
        found = []
        for id_ in self._containers.ids_in(sandbox_id):
            with contextlib.suppress(NotFound):  # removed meanwhile
                found.append(ContainerView(*self._containers.get(id_)))
        return found

    # Writing

    async def load(self) -> list[str]:
        """Read all records; return a sentence for each that could not be read and was set aside."""
        complaints = await self._pool.run(self._sandboxes.load_all)
        return complaints + await self._pool.run(self._containers.load_all)

    async def create_sandbox(self, spec: SandboxSpec, status: SandboxStatus) -> None:
        """Write a new sandbox down. It is told of when it is ready."""
        await self._pool.run(self._sandboxes.create, spec, status)

    async def create_container(self, spec: ContainerSpec, status: ContainerStatus) -> None:
        """Write a new container down."""
        await self._pool.run(self._create_container, spec, status, asyncio.get_running_loop())

    async def update_sandbox(
        self, id_: str, change: Callable[[SandboxStatus], SandboxStatus]
    ) -> SandboxStatus | None:
        """Replace the status by what ``change`` makes of it; return it, or None if the sandbox is gone."""
        return await self._pool.run(self._change_sandbox, id_, change, asyncio.get_running_loop())

    async def update_container(
        self, id_: str, change: Callable[[ContainerStatus], ContainerStatus]
    ) -> ContainerStatus | None:
        """Replace the status by what ``change`` makes of it; return it, or None if the container is gone."""
        return await self._pool.run(self._change_container, id_, change, asyncio.get_running_loop())

    async def remove_sandbox(self, id_: str) -> None:
        """Remove a record with its directory. Idempotent."""
        await self._pool.run(self._remove_sandbox, id_, asyncio.get_running_loop())

    async def remove_container(self, id_: str) -> None:
        """Remove a record with its directory. Idempotent."""
        await self._pool.run(self._remove_container, id_, asyncio.get_running_loop())

    # From here on: in the thread that writes. Events are told of from here, so that they come in the order of
    # the changes, whoever asked for them and whether or not they still wait.

    def _create_container(self, spec: ContainerSpec, status: ContainerStatus, loop: _Loop) -> None:
        self._containers.create(spec, status)
        self._tell(loop, spec.id, spec.sandbox_id, EventType.CREATED)

    def _change_sandbox(
        self, id_: str, change: Callable[[SandboxStatus], SandboxStatus], loop: _Loop
    ) -> SandboxStatus | None:
        try:
            _, before = self._sandboxes.get(id_)
        except NotFound:
            return None
        after = change(before)
        if after != before:
            self._sandboxes.set_status(id_, after)
            self._tell(loop, id_, id_, *events.of_sandbox(before, after))
        return after

    def _change_container(
        self, id_: str, change: Callable[[ContainerStatus], ContainerStatus], loop: _Loop
    ) -> ContainerStatus | None:
        try:
            spec, before = self._containers.get(id_)
        except NotFound:
            return None
        after = change(before)
        if after != before:
            self._containers.set_status(id_, after)
            self._tell(loop, id_, spec.sandbox_id, *events.of_container(before, after))
        return after

    def _remove_sandbox(self, id_: str, loop: _Loop) -> None:
        view = self.find_sandbox(id_)
        self._sandboxes.remove(id_)
        if view is not None and view.status.ready_at_ns and self.events.wanted():
            self._publish(loop, id_, view, EventType.DELETED)

    def _remove_container(self, id_: str, loop: _Loop) -> None:
        view = self.find_container(id_)
        self._containers.remove(id_)
        if view is not None:
            self._tell(loop, id_, view.spec.sandbox_id, EventType.DELETED)

    def _tell(self, loop: _Loop, id_: str, sandbox_id: str, *types: EventType) -> None:
        sandbox = self.find_sandbox(sandbox_id) if types and self.events.wanted() else None
        if sandbox is not None:
            for each in types:
                self._publish(loop, id_, sandbox, each)

    def _publish(self, loop: _Loop, id_: str, sandbox: SandboxView, type_: EventType) -> None:
        containers = tuple(self.containers_of(sandbox.spec.id))
        event = Event(id_, type_, self.events.stamp(), sandbox, containers)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(self.events.publish, event)
