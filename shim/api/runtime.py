"""RuntimeService: each method translates in, calls one verb, and translates out."""

from __future__ import annotations

from typing import Any, Final

import shim
from shim._proto import api_pb2 as cri
from shim.api import budget, timeline
from shim.api.convert import check, info
from shim.api.convert.container import decode_container_config, encode_container, encode_container_status
from shim.api.convert.filters import decode_container_filter, decode_sandbox_filter
from shim.api.convert.resources import decode_resources
from shim.api.convert.sandbox import decode_sandbox_config, encode_sandbox, encode_sandbox_status
from shim.api.listing import Listing
from shim.api.node_status import node_status
from shim.api.streaming import Streaming, StreamingServer
from shim.model.container import ContainerConfig, ContainerSpec, ContainerState
from shim.model.sandbox import SandboxConfig, SandboxSpec, SandboxState
from shim.services.containers.create import create_container
from shim.services.containers.exec_sync import exec_sync
from shim.services.containers.list import list_containers
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
from shim.services.views import ContainerFilter, SandboxDetails, SandboxFilter

RUNTIME_NAME: Final = "cri-shim"
KUBELET_VERSION: Final = "0.1.0"  # a kubelet compares it with its own, which never changed
API_VERSION: Final = "v1"


class RuntimeService:
    """The methods of the CRI's RuntimeService; one that is missing here answers UNIMPLEMENTED."""

    def __init__(self, node: Node, streaming: StreamingServer | None = None) -> None:
        self._node = node
        self._streaming = Streaming(node, streaming)
        self._sandboxes = Listing[SandboxSpec, SandboxState](_sandbox_piece)
        self._containers = Listing[ContainerSpec, ContainerState](_container_piece)

    # Sandboxes

    async def run_pod_sandbox(
        self, request: cri.RunPodSandboxRequest, _context: Any
    ) -> cri.RunPodSandboxResponse:
        """Make a sandbox."""
        config = decode_sandbox_config(request.config)
        self._check_sandbox_list(config)
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

    async def pod_sandbox_status(
        self, request: cri.PodSandboxStatusRequest, _context: Any
    ) -> cri.PodSandboxStatusResponse:
        """Tell about a sandbox; to a person also whether its network is in order."""
        details = sandbox_status(self._node, check.given(request.pod_sandbox_id, "pod_sandbox_id"))
        return cri.PodSandboxStatusResponse(
            status=encode_sandbox_status(details.sandbox),
            info=await self._sandbox_info(details) if request.verbose else None,
        )

    async def list_pod_sandbox(self, request: cri.ListPodSandboxRequest, _context: Any) -> bytes:
        """List sandboxes."""
        views = list_sandboxes(self._node, decode_sandbox_filter(request.filter))
        items = [(view.spec, view.state) for view in views]
        return b"".join(self._sandboxes.pieces(items, whole=not request.HasField("filter")))

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
        self._check_container_list(config)
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

    async def list_containers(self, request: cri.ListContainersRequest, _context: Any) -> bytes:
        """List containers."""
        views = list_containers(self._node, decode_container_filter(request.filter))
        items = [(view.spec, view.state) for view in views]
        return b"".join(self._containers.pieces(items, whole=not request.HasField("filter")))

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

    # Lists stay within a message

    def _check_sandbox_list(self, config: SandboxConfig) -> None:
        views = list_sandboxes(self._node, SandboxFilter())
        pieces = self._sandboxes.pieces([(view.spec, view.state) for view in views], whole=True)
        another = cri.PodSandbox(labels=config.labels, annotations=config.annotations)
        budget.check_list("sandboxes", pieces, another.SerializeToString())

    def _check_container_list(self, config: ContainerConfig) -> None:
        views = list_containers(self._node, ContainerFilter())
        pieces = self._containers.pieces([(view.spec, view.state) for view in views], whole=True)
        another = cri.Container(labels=config.labels, annotations=config.annotations)
        budget.check_list("containers", pieces, another.SerializeToString())


def _sandbox_piece(spec: SandboxSpec, state: SandboxState) -> bytes:
    return cri.ListPodSandboxResponse(items=[encode_sandbox(spec, state)]).SerializeToString()


def _container_piece(spec: ContainerSpec, state: ContainerState) -> bytes:
    return cri.ListContainersResponse(containers=[encode_container(spec, state)]).SerializeToString()
