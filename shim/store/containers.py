"""Records of containers."""

from __future__ import annotations

from collections.abc import Hashable

from shim.model.container import ContainerSpec, ContainerStatus
from shim.store.layout import Layout
from shim.store.objects import ObjectStore


class ContainerStore(ObjectStore[ContainerSpec, ContainerStatus]):
    """All containers; (sandbox, name, attempt) is unique."""

    kind = "container"

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.containers, layout.quarantine, ContainerSpec, ContainerStatus)
        self._of_sandbox: dict[str, tuple[str, ...]] = {}

    def ids_in(self, sandbox_id: str) -> tuple[str, ...]:
        """Return the ids of the containers in a sandbox, in the order of ``list``."""
        return self._of_sandbox.get(sandbox_id, ())

    def remove(self, id_: str) -> None:
        """Remove a container with its directory. Idempotent."""
        found = self._objects.get(id_)
        if found is not None:
            sandbox_id = found[0].sandbox_id
            rest = tuple(each for each in self.ids_in(sandbox_id) if each != id_)
            if rest:
                self._of_sandbox[sandbox_id] = rest
            else:
                self._of_sandbox.pop(sandbox_id, None)
        super().remove(id_)

    def _index(self, spec: ContainerSpec, status: ContainerStatus) -> None:
        super()._index(spec, status)
        self._of_sandbox[spec.sandbox_id] = (*self.ids_in(spec.sandbox_id), spec.id)

    def name(self, spec: ContainerSpec) -> Hashable:
        """Return sandbox id and metadata."""
        return spec.sandbox_id, spec.config.metadata.name, spec.config.metadata.attempt
