"""Pods and containers as a kubelet asks for them, and the time of each call."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import bench_cgroups
import grpc

from shim._proto import api_pb2 as cri
from shim.cli.client import Stub

CALLS = (
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
)
GROUPS = {
    "Create + StartContainer": ("CreateContainer", "StartContainer"),
    "stop and remove, both": ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"),
}
_MESSAGE = 16 << 20


@dataclass
class Pod:
    """Ids of what was made, and the configurations that it was made from."""

    config: cri.PodSandboxConfig
    sandbox_id: str = ""
    container_id: str = ""


@dataclass
class Runtime:
    """One endpoint under test; times in ms by call."""

    endpoint: str
    image: str
    shared_pid: bool = False
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        options = [("grpc.max_receive_message_length", _MESSAGE), ("grpc.enable_http_proxy", 0)]
        self.path = self.endpoint.removeprefix("unix://")
        channel = grpc.insecure_channel(f"unix:{self.path}", options=options)
        self.runtime = Stub(channel, cri, "RuntimeService")
        self.images = Stub(channel, cri, "ImageService")
        version = self.runtime.Version(cri.VersionRequest())
        self.name = f"{version.runtime_name} {version.runtime_version}"
        self.logs = tempfile.TemporaryDirectory(prefix="cri-bench-")
        status = self.images.ImageStatus(cri.ImageStatusRequest(image=cri.ImageSpec(image=self.image)))
        if not status.HasField("image"):
            self.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=self.image)))

    @contextmanager
    def _timed(self, call: str, keep: bool) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if keep:
            self.times[call].append((time.perf_counter() - start) * 1000)

    def pid_mode(self) -> int:
        return cri.POD if self.shared_pid else cri.CONTAINER

    def start(self, *, keep: bool = False, script: str = "") -> Pod:
        """Run a sandbox with one container in it, which sleeps, or runs a script of a shell and takes input."""
        pod = Pod(self._pod_config())
        with self._timed("RunPodSandbox", keep):
            request = cri.RunPodSandboxRequest(config=pod.config)
            pod.sandbox_id = self.runtime.RunPodSandbox(request).pod_sandbox_id
        with self._timed("CreateContainer", keep):
            request = cri.CreateContainerRequest(
                pod_sandbox_id=pod.sandbox_id,
                config=self._container_config(script),
                sandbox_config=pod.config,
            )
            pod.container_id = self.runtime.CreateContainer(request).container_id
        with self._timed("StartContainer", keep):
            self.runtime.StartContainer(cri.StartContainerRequest(container_id=pod.container_id))
        return pod

    def execute(self, pod: Pod, *, keep: bool = False) -> None:
        """Run a program that ends at once."""
        with self._timed("ExecSync", keep):
            answer = self.runtime.ExecSync(cri.ExecSyncRequest(container_id=pod.container_id, cmd=["true"]))
        if answer.exit_code:
            raise RuntimeError(f"{self.name}: true ended with {answer.exit_code}: {answer.stderr!r}")

    def end(self, pod: Pod, *, keep: bool = False) -> None:
        """Stop and remove both."""
        with self._timed("StopContainer", keep):
            self.runtime.StopContainer(cri.StopContainerRequest(container_id=pod.container_id, timeout=0))
        with self._timed("RemoveContainer", keep):
            self.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=pod.container_id))
        with self._timed("StopPodSandbox", keep):
            self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox_id))
        with self._timed("RemovePodSandbox", keep):
            self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox_id))
        bench_cgroups.remove(pod.config.metadata.uid)

    def cycle(self, execs: int, *, keep: bool = True) -> None:
        """Do all of it once."""
        pod = self.start(keep=keep)
        for _ in range(execs):
            self.execute(pod, keep=keep)
        self.end(pod, keep=keep)

    def remove_all(self) -> None:
        """Remove every pod of this program, also those of a run that was cut off."""
        for item in self.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
            if item.metadata.namespace == "cri-bench":
                self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=item.id))
                self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=item.id))
                bench_cgroups.remove(item.metadata.uid)
        self.logs.cleanup()

    def _pod_config(self) -> cri.PodSandboxConfig:
        uid = str(uuid.uuid4())
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=f"bench-{uid[:8]}", uid=uid, namespace="cri-bench"),
            hostname=f"bench-{uid[:8]}",
            log_directory=f"{self.logs.name}/{uid}",
            labels={"io.kubernetes.pod.name": f"bench-{uid[:8]}", "io.kubernetes.pod.uid": uid},
            annotations={"kubernetes.io/config.source": "api"},
        )
        config.linux.cgroup_parent = bench_cgroups.make(uid)
        config.dns_config.servers.append("10.96.0.10")
        config.dns_config.options.append("ndots:5")
        config.linux.security_context.namespace_options.pid = self.pid_mode()
        return config

    def _container_config(self, script: str) -> cri.ContainerConfig:
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=self.image),
            command=["sh", "-c", script] if script else ["sleep", "100000"],
            stdin=bool(script),
            log_path="main/0.log",
            labels={"io.kubernetes.container.name": "main"},
        )
        config.linux.resources.cpu_shares = 102
        config.linux.resources.memory_limit_in_bytes = 64 << 20
        config.linux.security_context.namespace_options.pid = self.pid_mode()
        return config
