from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from shim._proto import api_pb2 as cri
from shim.api.registry import generic_handler
from shim.api.status import StatusInterceptor

METHODS = [
    (service.name, method.name, method.server_streaming)
    for service in cri.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


class OnlyLists:
    async def version(self, request: cri.VersionRequest, context: Any) -> cri.VersionResponse:
        return cri.VersionResponse(version=request.version)

    async def list_containers(self, request: cri.ListContainersRequest, context: Any) -> bytes:
        return cri.ListContainersResponse(containers=[cri.Container(id="a")]).SerializeToString()


async def call(folder: Path, service: str, method: str, streams: bool, request: bytes) -> bytes:
    server = grpc.aio.server(interceptors=[StatusInterceptor()])
    for name in ("RuntimeService", "ImageService"):
        server.add_generic_rpc_handlers((generic_handler(cri, name, OnlyLists()),))
    server.add_insecure_port(f"unix:{folder}/s")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{folder}/s") as channel:
            path = f"/runtime.v1.{service}/{method}"
            if streams:
                return b"".join([each async for each in channel.unary_stream(path)(request)])
            answer: bytes = await channel.unary_unary(path)(request)
            return answer
    finally:
        await server.stop(0)


async def test_a_method_is_served_by_its_namesake(tmp_path: Path) -> None:
    request = cri.VersionRequest(version="0.1.0").SerializeToString()
    answer = await call(tmp_path, "RuntimeService", "Version", False, request)
    assert cri.VersionResponse.FromString(answer).version == "0.1.0"


async def test_a_list_may_come_as_bytes(tmp_path: Path) -> None:
    answer = await call(tmp_path, "RuntimeService", "ListContainers", False, b"")
    assert cri.ListContainersResponse.FromString(answer).containers[0].id == "a"


@pytest.mark.parametrize(
    ("service", "method", "streams"),
    [each for each in METHODS if each[1] not in ("Version", "ListContainers")],
)
async def test_every_other_method_says_that_it_is_not_there(
    tmp_path: Path, service: str, method: str, streams: bool
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(tmp_path, service, method, streams, b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == f"cri-shim has no {method}"
