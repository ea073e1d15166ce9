"""Metrics and traces of the daemon; where nobody asks for them nothing of them is loaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from shim.api import tracing
from shim.api.calls import Observer
from shim.daemon.config import Config
from shim.errors import FailedPrecondition
from shim.services.node import Node

log = logging.getLogger(__name__)


@asynccontextmanager
async def observing(config: Config, node: Node) -> AsyncIterator[Sequence[Observer]]:
    """Yield what is to be told of every call.

    Raises:
        FailedPrecondition: metrics cannot be served, or traces are asked for by the configuration and their
            packages are missing.
    """
    observers: list[Observer] = []
    async with AsyncExitStack() as stack:
        if config.metrics.address:
            from shim.api.metrics import Metrics
            from shim.api.metrics_server import MetricsServer

            metrics = Metrics(node)
            server = MetricsServer(metrics.registry, config.metrics.address)
            await server.start()
            stack.push_async_callback(server.stop)
            observers.append(metrics.observer())
            log.info("metrics are served at %s", config.metrics.address)
        if tracing.is_wanted(config.tracing.endpoint):
            traces = _tracing(config.tracing.endpoint)
            if traces is not None:
                stack.push_async_callback(asyncio.to_thread, traces.close)
                observers.append(traces.observer())
        yield observers


def _tracing(endpoint: str) -> tracing.Tracing | None:
    """What only the environment asks for is no reason not to start: it may be meant for others."""
    try:
        return tracing.Tracing(endpoint)
    except FailedPrecondition as error:
        if endpoint:
            raise
        log.warning("%s", error)
        return None
