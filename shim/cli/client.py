"""A gRPC client of the daemon, like any other."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import grpc

from shim import errors
from shim._proto import api_pb2, images_pb2, timeline_pb2

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
CONNECT_TIMEOUT_S: Final = 5.0
BUSY_TIMEOUT_S: Final = 60.0
_PAUSE_S: Final = 0.05

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A proxy from the environment has no business between us and a unix socket.
    ("grpc.enable_http_proxy", 0),
)


class Stub:
    """The methods of one service, by name."""

    def __init__(self, channel: grpc.Channel, proto: ModuleType, service: str) -> None:
        descriptor = proto.DESCRIPTOR.services_by_name[service]
        for method in descriptor.methods:
            kind = (
                "stream" if method.client_streaming else "unary",
                "stream" if method.server_streaming else "unary",
            )
            make = getattr(channel, "_".join(kind))
            call = make(
                f"/{descriptor.full_name}/{method.name}",
                request_serializer=getattr(proto, method.input_type.name).SerializeToString,
                response_deserializer=getattr(proto, method.output_type.name).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


class Client:
    """The services of a daemon."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.runtime = Stub(channel, api_pb2, "RuntimeService")
        self.image = Stub(channel, api_pb2, "ImageService")
        self.files = Stub(channel, images_pb2, "Images")
        self.registry = Stub(channel, images_pb2, "Registry")
        self.timeline = Stub(channel, timeline_pb2, "Timeline")


@contextlib.contextmanager
def connect(path: str) -> Iterator[Client]:
    """Connect to the daemon whose socket is at ``path``; what it refuses is raised as one of our errors.

    Raises:
        Unavailable: no daemon answers there.
        ShimError: the daemon's own words.
    """
    with grpc.insecure_channel(f"unix:{path}", options=_OPTIONS) as channel:
        client = Client(channel)
        if not answers(client.runtime, CONNECT_TIMEOUT_S):
            if not _listens(path):
                raise errors.Unavailable(
                    f"no daemon answers at {path}: start one with 'cri-shim serve',"
                    " or name its socket with --socket"
                )
            if not answers(client.runtime, BUSY_TIMEOUT_S):
                raise errors.Unavailable(f"the daemon at {path} has not answered in {BUSY_TIMEOUT_S:.0f} s")
        try:
            yield client
        except grpc.RpcError as error:
            raise errors.ShimError(_words(error)) from error


def answers(runtime: Stub, timeout_s: float) -> bool:
    """Tell whether a daemon answers within some time; one that is not there yet is waited for.

    A call, since a channel that only looks whether it is connected may miss that it was, and then sleeps. It
    is repeated where it has met the ending connection of a daemon that was killed just now.
    """
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            runtime.Version(api_pb2.VersionRequest(), timeout=left_s, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                return bool(error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED)
            time.sleep(_PAUSE_S)
        else:
            return True
    return False


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _words(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return (details() if details else "") or str(error)
