"""Statistics and metrics of RuntimeService, at once or streamed.

Numbers are read and encoded in the thread of the statistics, some at a time, so that neither one large list
nor another caller's holds up anybody else. An answer is its pieces joined (``listing``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, TypeVar

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api import budget, wire
from shim.api.convert import check, metrics
from shim.api.convert import stats as convert
from shim.api.convert.filters import decode_sandbox_stats_filter, decode_stats_filter
from shim.api.listing import Listing
from shim.model.container import ContainerSpec
from shim.model.sandbox import SandboxSpec
from shim.services.containers.stats import container_stats, list_container_stats
from shim.services.node import Node
from shim.services.sandboxes.stats import list_sandbox_metrics, list_sandbox_stats, sandbox_stats
from shim.services.views import ContainerStatsView, SandboxMetricsView, SandboxStatsView

T = TypeVar("T")

_ITEM: Final = 1  # the field of every response, of lists and others


class Numbers:
    """The methods of RuntimeService that read numbers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._containers = Listing[ContainerSpec, None](lambda spec, _: convert.container_attributes(spec))
        self._sandboxes = Listing[SandboxSpec, None](lambda spec, _: convert.sandbox_attributes(spec))

    async def container_stats(self, request: cri.ContainerStatsRequest, _context: Any) -> bytes:
        """Measure a container."""
        view = await container_stats(self._node, check.given(request.container_id, "container_id"))
        return await self._node.pools.stats.run(self._container_piece, view)

    async def list_container_stats(self, request: cri.ListContainerStatsRequest, _context: Any) -> bytes:
        """Measure containers."""
        views = list_container_stats(self._node, decode_stats_filter(request.filter))
        return await _join("container statistics", self._encoded(views, self._container_piece))

    async def stream_container_stats(
        self, request: cri.StreamContainerStatsRequest, _context: Any
    ) -> AsyncIterator[bytes]:
        """Measure containers, some in each message."""
        views = list_container_stats(self._node, decode_stats_filter(request.filter))
        async for chunk in self._encoded(views, self._container_piece):
            yield chunk

    async def pod_sandbox_stats(self, request: cri.PodSandboxStatsRequest, _context: Any) -> bytes:
        """Measure a sandbox."""
        view = await sandbox_stats(self._node, check.given(request.pod_sandbox_id, "pod_sandbox_id"))
        return await self._node.pools.stats.run(self._sandbox_piece, view)

    async def list_pod_sandbox_stats(self, request: cri.ListPodSandboxStatsRequest, _context: Any) -> bytes:
        """Measure sandboxes."""
        views = list_sandbox_stats(self._node, decode_sandbox_stats_filter(request.filter))
        return await _join("sandbox statistics", self._encoded(views, self._sandbox_piece))

    async def stream_pod_sandbox_stats(
        self, request: cri.StreamPodSandboxStatsRequest, _context: Any
    ) -> AsyncIterator[bytes]:
        """Measure sandboxes, some in each message."""
        views = list_sandbox_stats(self._node, decode_sandbox_stats_filter(request.filter))
        async for chunk in self._encoded(views, self._sandbox_piece):
            yield chunk

    async def list_metric_descriptors(
        self, _request: cri.ListMetricDescriptorsRequest, _context: Any
    ) -> cri.ListMetricDescriptorsResponse:
        """Tell which metrics there are."""
        return cri.ListMetricDescriptorsResponse(descriptors=metrics.descriptors())

    async def list_pod_sandbox_metrics(
        self, _request: cri.ListPodSandboxMetricsRequest, _context: Any
    ) -> bytes:
        """Read the metrics of sandboxes and containers."""
        return await _join("metrics", self._encoded(list_sandbox_metrics(self._node), _metrics_piece))

    async def stream_pod_sandbox_metrics(
        self, _request: cri.StreamPodSandboxMetricsRequest, _context: Any
    ) -> AsyncIterator[bytes]:
        """Read the metrics of sandboxes and containers, some in each message."""
        async for chunk in self._encoded(list_sandbox_metrics(self._node), _metrics_piece):
            yield chunk

    async def _encoded(
        self, views: AsyncIterator[list[T]], encode: Callable[[T], bytes]
    ) -> AsyncIterator[bytes]:
        async for some in views:
            yield await self._node.pools.stats.run(_encode_all, some, encode)
        await self._node.pools.stats.run(self._forget)

    def _forget(self) -> None:
        self._containers.keep(view.spec.id for view in self._node.records.containers())
        self._sandboxes.keep(view.spec.id for view in self._node.records.sandboxes())

    def _container_piece(self, view: ContainerStatsView) -> bytes:
        return wire.data(_ITEM, self._container_stats(view))

    def _container_stats(self, view: ContainerStatsView) -> bytes:
        attributes = self._containers.piece(view.spec, None)
        return attributes + convert.encode_container_numbers(view).SerializeToString()

    def _sandbox_piece(self, view: SandboxStatsView) -> bytes:
        attributes = self._sandboxes.piece(view.spec, None)
        containers = [self._container_stats(each) for each in view.containers]
        return wire.data(
            _ITEM, convert.join_sandbox(attributes, convert.encode_sandbox_numbers(view), containers)
        )


def _metrics_piece(view: SandboxMetricsView) -> bytes:
    return wire.data(_ITEM, metrics.encode_sandbox_metrics(view))


def _encode_all(views: Iterable[T], encode: Callable[[T], bytes]) -> bytes:
    return b"".join([encode(view) for view in views])


async def _join(what: str, chunks: AsyncIterator[bytes]) -> bytes:
    """Return a list as one answer.

    Raises:
        ResourceExhausted: it is larger than callers take.
    """
    answer = b"".join([chunk async for chunk in chunks])
    if len(answer) > budget.MAX_MESSAGE_BYTES:
        raise errors.ResourceExhausted(
            f"{what} take {len(answer)} bytes, and an answer has at most {budget.MAX_MESSAGE_BYTES}: "
            "ask for a stream of them"
        )
    return answer
