"""From a service in a .proto file to handlers: each method is served, by one of ours or by a refusal."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable
from types import ModuleType
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor

from shim import errors


def generic_handler(proto: ModuleType, service: str, *servants: object) -> grpc.GenericRpcHandler:
    """Return the handlers of ``service``.

    A method ``RunPodSandbox`` is served by ``run_pod_sandbox(request, context)`` of the first servant with
    it: a coroutine, or an async generator where it streams. One that none has answers UNIMPLEMENTED.

    Args:
        proto: generated module with the service.
        service: name without package.
        servants: have the methods.
    """
    descriptor = proto.DESCRIPTOR.services_by_name[service]
    handlers = {
        method.name: _handler(proto, method, _find(servants, _snake(method.name)))
        for method in descriptor.methods
    }
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def _find(servants: Iterable[object], name: str) -> Callable[..., Any] | None:
    return next((getattr(each, name) for each in servants if hasattr(each, name)), None)


def encode(message: Any) -> bytes:
    """Return a response as bytes; lists come as bytes already (``listing``)."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _handler(
    proto: ModuleType, method: MethodDescriptor, behaviour: Callable[..., Any] | None
) -> grpc.RpcMethodHandler[Any, Any]:
    decode = getattr(proto, method.input_type.name).FromString
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(behaviour or _refuse(method.name), decode, encode)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(behaviour or _refuse_stream(method.name), decode, encode)
    return grpc.unary_unary_rpc_method_handler(behaviour or _refuse(method.name), decode, encode)


def _refuse(name: str) -> Callable[..., Any]:
    async def refuse(_request: Any, _context: Any) -> Any:
        raise errors.Unimplemented(f"cri-shim has no {name}")

    return refuse


def _refuse_stream(name: str) -> Callable[..., Any]:
    refuse = _refuse(name)

    async def refuse_stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield await refuse(request, context)

    return refuse_stream
