"""cri_shim.v1.Registry: what a pull would ask, and a try (proto/cri_shim/v1/images.proto)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from shim._proto import images_pb2 as own
from shim.api.convert import check
from shim.model.image import Auth
from shim.services.images.registry import explain_pull, try_pull
from shim.services.node import Node


class RegistryTools:
    """The methods of the service."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def explain(self, request: own.RegistryRequest, _context: Any) -> own.Explanation:
        """Tell which hosts would be asked."""
        reference = check.given(request.reference, "reference")
        found = await explain_pull(self._node, reference, _auth(request))
        return own.Explanation(
            reference=found.reference,
            source=found.source,
            tried=found.tried,
            warnings=found.warnings,
            offline=found.offline,
            hosts=[
                own.RegistryHost(
                    url=host.url,
                    capabilities=host.capabilities,
                    reason=host.reason,
                    credentials=host.credentials,
                    tls=host.tls,
                    proxy=host.proxy,
                    state=host.state,
                )
                for host in found.hosts
            ],
        )

    async def test(self, request: own.RegistryRequest, _context: Any) -> AsyncIterator[own.TestStep]:
        """Try them."""
        reference = check.given(request.reference, "reference")
        async for step in try_pull(self._node, reference, _auth(request)):
            yield own.TestStep(
                url=step.url, name=step.name, seconds=step.seconds, error=step.error, detail=step.detail
            )


def _auth(request: own.RegistryRequest) -> Auth | None:
    return Auth(username=request.username, password=request.password) if request.username else None
