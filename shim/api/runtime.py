"""RuntimeService: each method translates in, calls one verb, and translates out."""

from __future__ import annotations

from typing import Any, Final

import shim
from shim._proto import api_pb2 as cri
from shim.api import timeline, wire
from shim.api.convert import check, info
from shim.api.convert.container import decode_container_config, encode_container_status
from shim.api.convert.resources import decode_resources
from shim.api.convert.sandbox import decode_sandbox_config
from shim.api.lists import Lists
from shim.api.node_status import node_status
from shim.api.statuses import Statuses
from shim.api.streaming import Streaming, StreamingServer
from shim.services.containers.create import create_container
from shim.services.containers.exec_sync import exec_sync
from shim.services.containers.remove import remove_container
from shim.services.containers.reopen_log import reopen_container_log
from shim.services.containers.start import start_container
from shim.services.containers.status import container_status
from shim.services.containers.stop import stop_container
from shim.services.containers.update import update_container_resources
from shim.services.node import Node
from shim.services.sandboxes.list import list_sandboxes
from shim.services.sandboxes.remove import remove_pod_sandbox
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.status import check_network, sandbox_status
from shim.services.sandboxes.stop import stop_pod_sandbox
from shim.services.sandboxes.update_resources import update_pod_sandbox_resources
from shim.services.views import SandboxDetails, SandboxFilter

RUNTIME_NAME: Final = "cri-shim"
KUBELET_VERSION: Final = "0.1.0"  # a kubelet compares it with its own, which never changed
API_VERSION: Final = "v1"

_STATUS: Final = 1  # fields of PodSandboxStatusResponse
_CONTAINERS: Final = 3
_TIMESTAMP: Final = 4


class RuntimeService:
    """The methods of the CRI's RuntimeService; one that is missing here answers UNIMPLEMENTED."""

    def __init__(
        self, node: Node, lists: Lists, statuses: Statuses, streaming: StreamingServer | None = None
    ) -> None:
        self._node = node
        self._lists = lists
        self._statuses = statuses
        self._streaming = Streaming(node, streaming)

    # Sandboxes

    async def run_pod_sandbox(
        self, request: cri.RunPodSandboxRequest, _context: Any
    ) -> cri.RunPodSandboxResponse:
        """Make a sandbox."""
        config = decode_sandbox_config(request.config)
        self._lists.check_sandbox(config)
        id_ = await run_pod_sandbox(self._node, config, request.runtime_handler)
        return cri.RunPodSandboxResponse(pod_sandbox_id=id_)

    async def stop_pod_sandbox(
        self, request: cri.StopPodSandboxRequest, _context: Any
    ) -> cri.StopPodSandboxResponse:
        """Stop a sandbox and all in it."""
        await stop_pod_sandbox(self._node, check.given(request.pod_sandbox_id, "pod_sandbox_id"))
        return cri.StopPodSandboxResponse()

    async def remove_pod_sandbox(
        self, request: cri.RemovePodSandboxRequest, _context: Any
    ) -> cri.RemovePodSandboxResponse:
        """Remove a sandbox and all in it."""
        await remove_pod_sandbox(self._node, check.given(request.pod_sandbox_id, "pod_sandbox_id"))
        return cri.RemovePodSandboxResponse()

    async def pod_sandbox_status(self, request: cri.PodSandboxStatusRequest, _context: Any) -> bytes:
        """Tell about a sandbox and its containers; to a person also whether its network is in order."""
        id_ = check.given(request.pod_sandbox_id, "pod_sandbox_id")
        verbose = cri.PodSandboxStatusResponse()
        if request.verbose:
            verbose.info.update(await self._sandbox_info(sandbox_status(self._node, id_)))
        details = sandbox_status(self._node, id_)
        parts = [
            wire.data(_STATUS, self._statuses.sandbox(details.sandbox)),
            *(wire.data(_CONTAINERS, each) for each in self._statuses.containers(details.containers)),
            wire.number(_TIMESTAMP, self._node.records.events.now_ns()),
            verbose.SerializeToString(),
        ]
        return b"".join(parts)

    async def update_pod_sandbox_resources(
        self, request: cri.UpdatePodSandboxResourcesRequest, _context: Any
    ) -> cri.UpdatePodSandboxResourcesResponse:
        """Note the resources of a pod."""
        await update_pod_sandbox_resources(
            self._node,
            check.given(request.pod_sandbox_id, "pod_sandbox_id"),
            decode_resources(request.overhead) if request.HasField("overhead") else None,
            decode_resources(request.resources) if request.HasField("resources") else None,
        )
        return cri.UpdatePodSandboxResourcesResponse()

    # Containers

    async def create_container(
        self, request: cri.CreateContainerRequest, _context: Any
    ) -> cri.CreateContainerResponse:
        """Make a container."""
        sandbox_id = check.given(request.pod_sandbox_id, "pod_sandbox_id")
        config = decode_container_config(request.config)
        sandbox = None
        if request.HasField("sandbox_config"):
            sandbox = decode_sandbox_config(request.sandbox_config)
        self._lists.check_container(config)
        id_ = await create_container(self._node, sandbox_id, config, sandbox)
        return cri.CreateContainerResponse(container_id=id_)

    async def start_container(
        self, request: cri.StartContainerRequest, _context: Any
    ) -> cri.StartContainerResponse:
        """Start a container."""
        await start_container(self._node, check.given(request.container_id, "container_id"))
        return cri.StartContainerResponse()

    async def stop_container(
        self, request: cri.StopContainerRequest, _context: Any
    ) -> cri.StopContainerResponse:
        """Stop a container."""
        await stop_container(self._node, check.given(request.container_id, "container_id"), request.timeout)
        return cri.StopContainerResponse()

    async def remove_container(
        self, request: cri.RemoveContainerRequest, _context: Any
    ) -> cri.RemoveContainerResponse:
        """Remove a container."""
        await remove_container(self._node, check.given(request.container_id, "container_id"))
        return cri.RemoveContainerResponse()

    async def container_status(
        self, request: cri.ContainerStatusRequest, _context: Any
    ) -> cri.ContainerStatusResponse:
        """Tell about a container."""
        view = container_status(self._node, check.given(request.container_id, "container_id"))
        verbose = None
        if request.verbose:
            sandboxes = list_sandboxes(self._node, SandboxFilter(id=view.spec.sandbox_id))
            verbose = info.container_info(
                view, sandboxes[0] if sandboxes else None, timeline.plain(self._node, view.spec.id)
            )
        return cri.ContainerStatusResponse(status=encode_container_status(view), info=verbose)

    async def update_container_resources(
        self, request: cri.UpdateContainerResourcesRequest, _context: Any
    ) -> cri.UpdateContainerResourcesResponse:
        """Change limits."""
        await update_container_resources(
            self._node,
            check.given(request.container_id, "container_id"),
            decode_resources(request.linux),
        )
        return cri.UpdateContainerResourcesResponse()

    async def reopen_container_log(
        self, request: cri.ReopenContainerLogRequest, _context: Any
    ) -> cri.ReopenContainerLogResponse:
        """Open a log file anew."""
        await reopen_container_log(self._node, check.given(request.container_id, "container_id"))
        return cri.ReopenContainerLogResponse()

    async def exec_sync(self, request: cri.ExecSyncRequest, _context: Any) -> cri.ExecSyncResponse:
        """Run a command."""
        result = await exec_sync(
            self._node,
            check.given(request.container_id, "container_id"),
            tuple(request.cmd),
            request.timeout,
        )
        return cri.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)

    async def exec(self, request: cri.ExecRequest, _context: Any) -> cri.ExecResponse:
        """Prepare a command with live streams."""
        return self._streaming.exec(request)

    async def attach(self, request: cri.AttachRequest, _context: Any) -> cri.AttachResponse:
        """Prepare live streams of a container."""
        return self._streaming.attach(request)

    async def port_forward(self, request: cri.PortForwardRequest, _context: Any) -> cri.PortForwardResponse:
        """Prepare connections into a sandbox."""
        return self._streaming.port_forward(request)

    # The runtime itself

    async def version(self, _request: cri.VersionRequest, _context: Any) -> cri.VersionResponse:
        """Tell who answers."""
        return cri.VersionResponse(
            version=KUBELET_VERSION,
            runtime_name=RUNTIME_NAME,
            runtime_version=shim.__version__,
            runtime_api_version=API_VERSION,
        )

    async def status(self, request: cri.StatusRequest, _context: Any) -> cri.StatusResponse:
        """Tell whether pods can be run."""
        return await node_status(self._node, verbose=request.verbose)

    async def runtime_config(
        self, _request: cri.RuntimeConfigRequest, _context: Any
    ) -> cri.RuntimeConfigResponse:
        """Tell the cgroup driver."""
        driver = cri.SYSTEMD if self._node.cgroups.driver == "systemd" else cri.CGROUPFS
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def update_runtime_config(
        self, request: cri.UpdateRuntimeConfigRequest, _context: Any
    ) -> cri.UpdateRuntimeConfigResponse:
        """Take note of the node's pod address range."""
        cidr = request.runtime_config.network_config.pod_cidr
        if cidr:
            await self._node.networks.update_pod_cidr(cidr)
        return cri.UpdateRuntimeConfigResponse()

    async def _sandbox_info(self, details: SandboxDetails) -> dict[str, str]:
        network_check = await check_network(self._node, details.sandbox)
        return info.sandbox_info(details, timeline.plain(self._node, details.sandbox.spec.id), network_check)
