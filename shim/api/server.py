"""The gRPC server on its unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Final

import grpc
import grpc.aio

from shim import errors
from shim._proto import api_pb2, images_pb2, timeline_pb2
from shim.api import budget
from shim.api.calls import Observer
from shim.api.events import EventStreams
from shim.api.image import ImageService
from shim.api.image_files import ImageFiles
from shim.api.lists import Lists
from shim.api.numbers import Numbers
from shim.api.observers import timeline_observer
from shim.api.registry import generic_handler
from shim.api.registry_tools import RegistryTools
from shim.api.runtime import RuntimeService
from shim.api.status import StatusInterceptor
from shim.api.statuses import Statuses
from shim.api.streaming import StreamingServer
from shim.api.timeline import TimelineService
from shim.services.node import Node

SOCKET_MODE: Final = 0o660
MAX_SOCKET_PATH: Final = 107  # sun_path of unix(7), less its NUL

OPTIONS: Final = (
    ("grpc.max_receive_message_length", budget.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", budget.MAX_MESSAGE_BYTES),
    # A second server on the same socket is a mistake, never a share of the load.
    ("grpc.so_reuseport", 0),
    # kubelets and crictl keep connections for hours without a call.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
)


class Server:
    """Serves the CRI, and our own small service, on one socket.

    Args:
        node: what the verbs work with.
        spool: directory where archives pass through, see ``ImageFiles``.
        path: of the socket, absolute; a dead socket there is replaced.
        streaming: where Exec, Attach and PortForward send their callers; None: they are UNIMPLEMENTED.
        observers: are told of every call, beside the timeline.
    """

    def __init__(
        self,
        node: Node,
        spool: str,
        path: str,
        streaming: StreamingServer | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._path = path
        self._events = node.records.events
        self._files = ImageFiles(node, spool)
        self._server = grpc.aio.server(
            interceptors=[StatusInterceptor((timeline_observer(node), *observers))], options=OPTIONS
        )
        lists, statuses = Lists(node), Statuses(node)
        runtime = RuntimeService(node, lists, statuses, streaming)
        services: Mapping[str, tuple[ModuleType, *tuple[object, ...]]] = {
            "RuntimeService": (api_pb2, runtime, lists, Numbers(node), EventStreams(node, statuses)),
            "ImageService": (api_pb2, ImageService(node)),
            "Images": (images_pb2, self._files),
            "Registry": (images_pb2, RegistryTools(node)),
            "Timeline": (timeline_pb2, TimelineService(node)),
        }
        for name, (proto, *servants) in services.items():
            self._server.add_generic_rpc_handlers((generic_handler(proto, name, *servants),))

    async def start(self) -> None:
        """Begin to listen. The socket has its final mode before anybody can connect.

        Raises:
            InvalidArgument: the path is too long, or something that is no socket lies there.
        """
        if len(self._path.encode()) > MAX_SOCKET_PATH:
            raise errors.InvalidArgument(
                f"{self._path}: too long for a unix socket; at most {MAX_SOCKET_PATH} bytes"
            )
        _clear(self._path)
        os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        finally:
            os.umask(before)
        await self._server.start()
        self._events.opened()

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls under way may end within ``grace_s`` seconds, then they are cancelled."""
        self._events.close()
        await self._server.stop(grace_s)
        self._files.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    async def wait(self) -> None:
        """Wait until the server has stopped."""
        await self._server.wait_for_termination()


def _clear(path: str) -> None:
    """Remove the socket that a killed daemon left behind, but nobody's in use."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise errors.InvalidArgument(f"{path}: cannot listen here: this is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
        raise errors.FailedPrecondition(f"{path}: another program listens on this socket")
