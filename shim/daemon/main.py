"""The daemon's life: lock, look what is there, listen, stop.

What the daemon stops, restarts or loses never touches a container: their parent is the supervisor.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import shim
from shim.api.server import Server
from shim.daemon import log as logs
from shim.daemon import wiring
from shim.daemon.config import Config
from shim.daemon.notify import notify
from shim.daemon.observing import observing
from shim.services.streams import NodeStreams
from shim.store import lock
from shim.store.layout import Layout
from shim.streaming.server import StreamingServer

log = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A kubelet's calls are short; its longest, a stop with grace, goes on without the caller at the next start.
GRACE_S: Final = 5.0
UMASK: Final = 0o022


def run(config: Config) -> None:
    """Serve until a signal says stop.

    Raises:
        FailedPrecondition: another daemon uses the same root or state directory.
        ShimError, OSError: it cannot start, and why.
    """
    logs.configure(config.log)
    os.umask(UMASK)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    layout = Layout(config.root, config.state)
    layout.make()
    with _locked(layout):
        asyncio.run(_serve(config, layout))


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """Hold the locks of both directories: records lie in one, processes are found by the other."""
    with ExitStack() as held:
        for path in (layout.lock, os.path.join(layout.state, "lock")):
            held.callback(os.close, lock.hold(path))
        yield


async def _serve(config: Config, layout: Layout) -> None:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, _on_signal, signal.Signals(number), stopping)
    async with wiring.open_node(config, layout) as node, observing(config, node) as observers:
        streaming = StreamingServer(NodeStreams(node), wiring.streaming_settings(config))
        await streaming.start()
        server = Server(node, _spool(layout), config.socket_path, streaming, observers)
        await server.start()
        # What lives now lives as long as the daemon: no need to look at it in every collection.
        gc.collect()
        gc.freeze()
        log.info("cri-shim %s listens on %s", shim.__version__, config.socket_path)
        notify("READY=1\nSTATUS=serving")
        try:
            await stopping.wait()
        finally:
            notify("STOPPING=1")
            await server.stop(GRACE_S)
            await streaming.stop()
    log.info("stopped; containers go on")


def _on_signal(number: signal.Signals, stopping: asyncio.Event) -> None:
    log.info("stopping: %s", number.name)
    stopping.set()


def _spool(layout: Layout) -> str:
    """Return an empty directory for archives on their way, on the file system of the images."""
    path = os.path.join(layout.images, "spool")
    os.makedirs(path, mode=0o700, exist_ok=True)
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    return path
