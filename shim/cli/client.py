"""A gRPC client of the daemon, like any other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import grpc

from shim import errors
from shim._proto import api_pb2, images_pb2, timeline_pb2

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
CONNECT_TIMEOUT_S: Final = 5.0

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
def connect(socket: str) -> Iterator[Client]:
    """Connect to the daemon at ``socket``; what it refuses is raised as one of our errors.

    Raises:
        Unavailable: no daemon answers there.
        ShimError: the daemon's own words.
    """
    with grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            raise errors.Unavailable(
                f"no daemon answers at {socket}: start one with 'cri-shim serve',"
                " or name its socket with --socket"
            ) from None
        try:
            yield Client(channel)
        except grpc.RpcError as error:
            raise errors.ShimError(_words(error)) from error


def _words(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return (details() if details else "") or str(error)
