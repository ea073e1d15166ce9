"""Records of pod sandboxes."""

from __future__ import annotations

from collections.abc import Hashable

from shim.model.sandbox import SandboxSpec, SandboxStatus
from shim.store.layout import Layout
from shim.store.objects import ObjectStore


class SandboxStore(ObjectStore[SandboxSpec, SandboxStatus]):
    """All sandboxes; (name, namespace, uid, attempt) is unique."""

    kind = "sandbox"

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.sandboxes, layout.quarantine, SandboxSpec, SandboxStatus)

    def name(self, spec: SandboxSpec) -> Hashable:
        """Return the metadata."""
        metadata = spec.config.metadata
        return metadata.name, metadata.namespace, metadata.uid, metadata.attempt
