"""The lists of RuntimeService, at once or streamed: from memory, each item encoded once per state.

A kubelet asks for everything each second: as long as nothing has changed, the last answer is given again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Any, Final

from shim._proto import api_pb2 as cri
from shim.api import budget, wire
from shim.api.convert.container import encode_container
from shim.api.convert.filters import decode_container_filter, decode_sandbox_filter
from shim.api.convert.sandbox import encode_sandbox
from shim.api.listing import Listing
from shim.model.container import ContainerConfig, ContainerSpec, ContainerState
from shim.model.sandbox import SandboxConfig, SandboxSpec, SandboxState
from shim.services.containers.list import list_containers
from shim.services.node import Node
from shim.services.sandboxes.list import list_sandboxes
from shim.services.views import ContainerFilter, SandboxFilter

CHUNK_BYTES: Final = 256 * 1024
_ITEM: Final = 1  # the field of every list


class _Whole:
    """The answer to a question for everything, kept until something changes."""

    def __init__(self, make: Callable[[], Sequence[bytes]]) -> None:
        self._make = make
        self._state: Hashable = None
        self._answer = b""

    def answer(self, state: Hashable) -> bytes:
        """Return the answer for ``state``, which was looked at before anything that the answer tells of."""
        if self._state != state:
            self._answer, self._state = b"".join(self._make()), state
        return self._answer


class Lists:
    """The methods of RuntimeService that list sandboxes and containers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sandboxes = Listing[SandboxSpec, SandboxState](_sandbox_piece)
        self._containers = Listing[ContainerSpec, ContainerState](_container_piece)
        self._all_sandboxes = _Whole(lambda: self._sandbox_pieces(SandboxFilter()))
        self._all_containers = _Whole(lambda: self._container_pieces(ContainerFilter()))

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest, _context: Any) -> bytes:
        """List sandboxes."""
        wanted = decode_sandbox_filter(request.filter)
        if wanted == SandboxFilter():
            return self._all_sandboxes.answer(self._sandbox_state())
        return b"".join(self._sandbox_pieces(wanted))

    async def stream_pod_sandboxes(
        self, request: cri.StreamPodSandboxesRequest, _context: Any
    ) -> AsyncIterator[bytes]:
        """List sandboxes, some in each message."""
        for chunk in wire.chunks(self._sandbox_pieces(decode_sandbox_filter(request.filter)), CHUNK_BYTES):
            yield chunk

    async def list_containers(self, request: cri.ListContainersRequest, _context: Any) -> bytes:
        """List containers."""
        wanted = decode_container_filter(request.filter)
        if wanted == ContainerFilter():
            return self._all_containers.answer(self._node.records.container_changes)
        return b"".join(self._container_pieces(wanted))

    async def stream_containers(
        self, request: cri.StreamContainersRequest, _context: Any
    ) -> AsyncIterator[bytes]:
        """List containers, some in each message."""
        pieces = self._container_pieces(decode_container_filter(request.filter))
        for chunk in wire.chunks(pieces, CHUNK_BYTES):
            yield chunk

    def check_sandbox(self, config: SandboxConfig) -> None:
        """Check that the list can take another sandbox.

        Raises:
            ResourceExhausted: it would be too large for a message.
        """
        size = len(self._all_sandboxes.answer(self._sandbox_state()))
        another = cri.PodSandbox(labels=config.labels, annotations=config.annotations)
        budget.check_list("sandboxes", size, another.SerializeToString())

    def check_container(self, config: ContainerConfig) -> None:
        """Check that the list can take another container.

        Raises:
            ResourceExhausted: it would be too large for a message.
        """
        size = len(self._all_containers.answer(self._node.records.container_changes))
        another = cri.Container(labels=config.labels, annotations=config.annotations)
        budget.check_list("containers", size, another.SerializeToString())

    def _sandbox_state(self) -> Hashable:
        return self._node.records.sandbox_changes, frozenset(self._node.making)

    def _sandbox_pieces(self, wanted: SandboxFilter) -> list[bytes]:
        views = list_sandboxes(self._node, wanted)
        items = [(view.spec, view.state) for view in views]
        return self._sandboxes.pieces(items, whole=wanted == SandboxFilter())

    def _container_pieces(self, wanted: ContainerFilter) -> list[bytes]:
        views = list_containers(self._node, wanted)
        items = [(view.spec, view.state) for view in views]
        return self._containers.pieces(items, whole=wanted == ContainerFilter())


def _sandbox_piece(spec: SandboxSpec, state: SandboxState) -> bytes:
    return wire.data(_ITEM, encode_sandbox(spec, state).SerializeToString())


def _container_piece(spec: ContainerSpec, state: ContainerState) -> bytes:
    return wire.data(_ITEM, encode_container(spec, state).SerializeToString())
