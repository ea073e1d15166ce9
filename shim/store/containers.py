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

    def name(self, spec: ContainerSpec) -> Hashable:
        """Return sandbox id and metadata."""
        return spec.sandbox_id, spec.config.metadata.name, spec.config.metadata.attempt
