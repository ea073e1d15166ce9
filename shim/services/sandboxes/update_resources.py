"""UpdatePodSandboxResources."""

from __future__ import annotations

import dataclasses

from shim.model.resources import Resources
from shim.model.sandbox import SandboxStatus
from shim.services.node import Node
from shim.services.validate import values


async def update_pod_sandbox_resources(
    node: Node, id_: str, overhead: Resources | None, resources: Resources | None
) -> None:
    """Note the resources of a pod as the kubelet has set them; the pod's own cgroup is the kubelet's.

    Raises:
        NotFound: no sandbox has this id or prefix.
        InvalidArgument: a limit makes no sense.
    """
    for field, value in (("overhead", overhead), ("resources", resources)):
        if value is not None:
            values.resources(field, value, whole=False)

    def noted(status: SandboxStatus) -> SandboxStatus:
        return dataclasses.replace(
            status,
            overhead=overhead if overhead is not None else status.overhead,
            resources=resources if resources is not None else status.resources,
        )

    await node.records.update_sandbox(node.records.sandbox(id_).spec.id, noted)
