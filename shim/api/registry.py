"""From a service in a .proto file to handlers: each method is served, by one of ours or by a refusal."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor

from shim import errors


def generic_handler(proto: ModuleType, service: str, servant: object) -> grpc.GenericRpcHandler:
    """Return the handlers of ``service``.

    A method ``RunPodSandbox`` is served by ``servant.run_pod_sandbox(request, context)``, a coroutine, or an
    async generator where it streams. One that ``servant`` does not have answers UNIMPLEMENTED.

    Args:
        proto: generated module with the service.
        service: name without package.
        servant: has the methods.
    """
    descriptor = proto.DESCRIPTOR.services_by_name[service]
    handlers = {
        method.name: _handler(proto, method, getattr(servant, _snake(method.name), None))
        for method in descriptor.methods
    }
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


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
