"""Statuses as bytes, each encoded once: for answers and events that tell of all containers of a pod."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shim.api.convert.container import encode_container_status
from shim.api.convert.sandbox import encode_sandbox_status
from shim.api.listing import Listing
from shim.model.container import ContainerSpec, ContainerStatus
from shim.model.sandbox import SandboxSpec, SandboxStatus
from shim.services.node import Node
from shim.services.views import ContainerView, SandboxView

_SPARE: Final = 64  # pieces of what is gone that are kept at most


class Statuses:
    """Encoded statuses of the sandboxes and containers of a node. For the thread of the event loop."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sandboxes = Listing[SandboxSpec, SandboxStatus](_sandbox)
        self._containers = Listing[ContainerSpec, ContainerStatus](_container)

    def sandbox(self, view: SandboxView) -> bytes:
        """Return a PodSandboxStatus."""
        if len(self._sandboxes) > self._node.records.sandbox_count + _SPARE:
            self._sandboxes.keep(each.spec.id for each in self._node.records.sandboxes())
        return self._sandboxes.piece(view.spec, view.status)

    def containers(self, views: Iterable[ContainerView]) -> list[bytes]:
        """Return a ContainerStatus for each."""
        if len(self._containers) > self._node.records.container_count + _SPARE:
            self._containers.keep(each.spec.id for each in self._node.records.containers())
        return [self._containers.piece(view.spec, view.status) for view in views]


def _sandbox(spec: SandboxSpec, status: SandboxStatus) -> bytes:
    return encode_sandbox_status(SandboxView(spec, status)).SerializeToString()


def _container(spec: ContainerSpec, status: ContainerStatus) -> bytes:
    return encode_container_status(ContainerView(spec, status)).SerializeToString()
