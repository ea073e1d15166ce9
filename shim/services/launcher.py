"""Starting processes: plans them from what was asked, and has the supervisor fork them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from shim.errors import FailedPrecondition, NotFound, ShimError, Unavailable
from shim.kernel import capabilities, mount
from shim.model import ids
from shim.model.cgroup import Place
from shim.model.container import ContainerSpec, ProcessRef
from shim.model.sandbox import SandboxSpec
from shim.model.security import Confinement, ContainerSecurity, NamespaceMode
from shim.model.streams import StreamOptions
from shim.runtime import plan_unseen, rlimits, seccomp_answers, seccomp_filter
from shim.runtime.container_parts import ContainerPlan, pid_mode
from shim.runtime.default_files import DeviceNode
from shim.runtime.plan import Plan, encode_plan
from shim.runtime.plan_container import plan_container
from shim.runtime.plan_exec import plan_exec
from shim.runtime.plan_init import plan_init
from shim.runtime.plan_namespaces import plan_namespaces, plan_probe
from shim.runtime.plan_process import Limits
from shim.runtime.plan_sockets import plan_sockets
from shim.runtime.plan_sysctls import plan_interface_sysctls
from shim.runtime.privileges import Privileges, plan_capabilities, plan_labels
from shim.services import host_devices, host_files
from shim.services.collaborators import Cgroups
from shim.services.confinement import seccomp
from shim.services.confinement.resolve import profiles_of
from shim.services.node import Settings
from shim.services.tracers import Arrivals, has_tracer
from shim.services.views import ContainerView
from shim.store.layout import Layout
from shim.supervisor import protocol
from shim.supervisor.client import Child, ForkRequest, SupervisorClient
from shim.supervisor.protocol import LogConfig
from shim.supervisor.stdio import Stdio

log = logging.getLogger(__name__)

OUTPUT: Final = StreamOptions(stdout=True, stderr=True)
_MOST_TOLD: Final = 256
_HOST_SHM: Final = "/dev/shm"  # noqa: S108 - the node's own, for pods that share its ipc namespace
_POD_FILES: Final = (host_files.HOSTS, host_files.HOSTNAME, host_files.RESOLV_CONF)


class Launcher:
    """Starts what a node runs (``collaborators.Launcher``).

    Args:
        client: of the supervisor.
        layout: where the pod's files and its shared memory lie.
        settings: of the node.
        cgroups: tells where the OOM killer is watched.
        boot_id: of this boot.
        find_process: returns the process of a running container, None if it does not run; for containers
            that join the PID namespace of another.
        find_containers: returns the containers of a sandbox.
    """

    def __init__(
        self,
        client: SupervisorClient,
        layout: Layout,
        settings: Settings,
        cgroups: Cgroups,
        boot_id: str,
        find_process: Callable[[str], ProcessRef | None],
        find_containers: Callable[[str], Iterable[ContainerSpec]],
    ) -> None:
        self._client = client
        self._layout = layout
        self._settings = settings
        self._cgroups = cgroups
        self._boot_id = boot_id
        self._find_process = find_process
        self._find_containers = find_containers
        self._available = capabilities.bounding_set()
        self._limits = Limits(self._rlimits())
        self._told: set[str] = set()
        self._arrivals = Arrivals()

    def _rlimits(self) -> tuple[tuple[int, int, int], ...]:
        wanted = rlimits.plan_rlimits(self._settings.nofile_soft, self._settings.nofile_hard)
        if self._available >> capabilities.parse("SYS_RESOURCE") & 1:
            return wanted
        given = rlimits.within(wanted, rlimits.ceilings())
        for (number, _, asked), (_, _, hard) in zip(wanted, given, strict=True):
            if asked != hard:
                log.warning(
                    "limit %d of containers is %d instead of %d: no CAP_SYS_RESOURCE", number, hard, asked
                )
        return given

    def prepare(self) -> None:
        """Build what the first container would otherwise wait for: the default seccomp program. Blocking."""
        mask, _, _ = plan_capabilities(ContainerSecurity(), self._available)
        seccomp_filter.runtime_default(mask)
        seccomp_filter.reaper()

    async def namespaces(self, spec: SandboxSpec) -> dict[str, int]:
        """Make and pin the namespaces of a pod; return sockets opened inside, by name, to be closed."""
        hostname = host_files.pod_hostname(spec.config, self._settings.hostname)
        plan = plan_namespaces(spec, hostname, self._layout.shm(spec.id))
        child = await self._client.fork(ForkRequest(spec.id, protocol.NAMESPACES, encode_plan(plan)))
        self._warn(f"sandbox {spec.id}", child)
        return dict(child.fds)

    async def interface_sysctls(self, spec: SandboxSpec) -> None:
        """Set the sysctls of the pod's interfaces, which are there by now.

        Raises:
            InvalidArgument: one cannot be set; the text names it.
        """
        plan = plan_interface_sysctls(spec)
        if plan is not None:
            await self._client.fork(ForkRequest(spec.id, protocol.NAMESPACES, encode_plan(plan)))

    async def find_userns_lack(self, directory: str) -> str:
        """Return why pods cannot have a user namespace on this node; empty where they can.

        Args:
            directory: of the file system that images lie on.
        """
        request = ForkRequest(ids.new_id(), protocol.NAMESPACES, encode_plan(plan_probe(directory)))
        try:
            await self._client.fork(request)
        except (ShimError, OSError) as error:
            return str(error)
        return ""

    async def init(self, spec: SandboxSpec, place: Place) -> int:
        """Start the first process of a pod's PID namespace, and pin that; return its pid.

        With a user namespace the caller pins it.
        """
        plan = plan_init(spec, place.join, seccomp_filter.reaper())
        request = ForkRequest(spec.id, protocol.INIT, encode_plan(plan), kill_dir=place.kill_dir)
        child = await self._fork_into(place, request)
        self._warn(f"init of sandbox {spec.id}", child)
        return child.info.pid

    async def container(self, sandbox: SandboxSpec, view: ContainerView, place: Place) -> ProcessRef:
        """Start a container; return when its program runs.

        Raises:
            ExecFailed: the program is missing or may not be run.
            FailedPrecondition: the container whose PID namespace it joins does not run.
            InvalidArgument, Unimplemented: what was asked cannot be done.
            KernelError: the kernel refused a step.
            Unavailable: it could take over an exec that is on its way into the pod, and does not arrive.
        """
        spec = view.spec
        if has_tracer((spec,), self._available):
            await self._arrivals.end(sandbox.id)
        asked = self._container_plan(sandbox, spec, place)
        plan = plan_container(asked)
        if pid_mode(spec, sandbox) is not NamespaceMode.CONTAINER:
            plan = self._hidden(plan, spec, asked.privileges)
        config = spec.config
        request = ForkRequest(
            spec.id,
            protocol.CONTAINER,
            encode_plan(plan),
            _stdio(spec, StreamOptions(config.stdin, stdout=True, stderr=True, tty=config.tty)),
            LogConfig(spec.log_path, config.tty, self._settings.log_line_bytes),
            place.kill_dir,
            self._cgroups.oom_watch(place.path),
        )
        with self._in_sight(plan, spec):
            child = await self._fork_into(place, request)
        self._warn(f"container {spec.id}", child)
        return ProcessRef(child.info.pid, child.info.start_time, self._boot_id)

    async def _fork_into(self, place: Place, request: ForkRequest) -> Child:
        try:
            return await self._client.fork(request)
        finally:
            self._cgroups.settle(place.path)

    async def exec(
        self,
        view: ContainerView,
        exec_id: str,
        argv: tuple[str, ...],
        place: Place,
        streams: StreamOptions = OUTPUT,
        go: asyncio.Future[None] | None = None,
    ) -> dict[str, int]:
        """Start a process in a container; return our ends of its streams, by name, to be closed.

        These are ``stdin``, ``stdout`` and ``stderr`` as asked for, or ``tty``, the master of its terminal.
        With ``go`` all is made ready, and the program is executed once that is done.

        Raises:
            ExecFailed: the program is missing or may not be run.
            FailedPrecondition: the container does not run any more.
            KernelError: the kernel refused a step.
        """
        spec, process = view.spec, view.status.process
        if process is None or process.boot_id != self._boot_id:
            raise FailedPrecondition(f"cannot exec in container {spec.id!r}: it does not run")
        if go is not None and self._has_tracer(spec):
            await _done(go)  # nothing of ours waits where somebody may trace it
            go = None
        privileges, hold = self._privileges(spec), go is not None
        plan = plan_exec(
            spec, process, argv, place.join, privileges, self._limits, tty=streams.tty, hold=hold
        )
        plan = self._hidden(plan, spec, privileges)
        request = ForkRequest(
            exec_id, protocol.EXEC, encode_plan(plan), _stdio(spec, streams), kill_dir=place.kill_dir, go=go
        )
        with self._in_sight(plan, spec, go):
            child = await self._fork_exec(spec, request)
        self._warn(f"exec {exec_id} in container {spec.id}", child)
        return dict(child.fds)

    async def sockets(self, spec: SandboxSpec, count: int) -> dict[str, int]:
        """Open TCP sockets in the network namespace of a pod; return them by name, to be closed.

        Returns:
            ``inet 0`` to ``inet <count - 1>``, and ``inet6 …`` where the node has IPv6; they do not block.

        Raises:
            KernelError: the namespace is gone, or the kernel refused a step.
        """
        plan = plan_sockets(spec.pins["net"], count)
        child = await self._client.fork(ForkRequest(ids.new_id(), protocol.NAMESPACES, encode_plan(plan)))
        return dict(child.fds)

    async def _fork_exec(self, spec: ContainerSpec, request: ForkRequest) -> Child:
        try:
            return await self._client.fork(request)
        except NotFound:
            raise FailedPrecondition(f"cannot exec in container {spec.id!r}: it has just ended") from None

    def _hidden(self, plan: Plan, spec: ContainerSpec, privileges: Privileges) -> Plan:
        """Return the plan of a process that enters a PID namespace, so that nobody in it gains by that."""
        if not self._has_tracer(spec):
            return plan
        lack = ""
        if not seccomp_answers.allows_an_early_filter(privileges.seccomp):
            lack = "the seccomp profile refuses calls that a fork needs"
        elif plan_unseen.mounts_proc(plan) and not mount.proc_takes_namespace():
            lack = "this kernel (Linux 6.17 is needed) mounts /proc only from inside a PID namespace"
        if not lack:
            return plan_unseen.keep_unseen(plan)
        text = f"a container of the pod with SYS_PTRACE could take over what starts beside it: {lack}"
        self._tell(f"container {spec.id}", text)
        return plan

    def _in_sight(
        self, plan: Plan, spec: ContainerSpec, go: asyncio.Future[None] | None = None
    ) -> AbstractContextManager[None]:
        """Return what takes note of a process that enters a PID namespace in which others see it."""
        if plan.unseen:
            return contextlib.nullcontext()
        return self._arrivals.under_way(spec.sandbox_id, go)

    def _has_tracer(self, spec: ContainerSpec) -> bool:
        """Return whether somebody in the pod could trace a process of the node's root that is seen there."""
        if spec.userns is not None:  # nobody there has a capability over a process of the node
            return False
        return has_tracer((spec, *self._find_containers(spec.sandbox_id)), self._available)

    def _container_plan(self, sandbox: SandboxSpec, spec: ContainerSpec, place: Place) -> ContainerPlan:
        directory = self._layout.sandbox(sandbox.id)
        privileges = self._privileges(spec)
        for name in privileges.missing:
            log.warning("container %s: this node cannot give the capability %s", spec.id, name)
        security = spec.config.security
        return ContainerPlan(
            spec=spec,
            sandbox=sandbox,
            place=place,
            privileges=privileges,
            limits=self._limits,
            pod_files={f"/etc/{name}": os.path.join(directory, name) for name in _POD_FILES},
            shm=self._layout.shm(sandbox.id) if "ipc" in sandbox.pins else _HOST_SHM,
            devices=(*host_devices.find(spec.config.devices, every=security.privileged), *_edited(spec)),
            target=self._target(spec, sandbox),
            mount_label=self._confinement(spec).mount_label,
        )

    def _target(self, spec: ContainerSpec, sandbox: SandboxSpec) -> ProcessRef | None:
        if pid_mode(spec, sandbox) is not NamespaceMode.TARGET:
            return None
        namespaces = spec.config.security.namespaces
        target_id = namespaces.target_id if namespaces is not None else ""
        process = self._find_process(target_id)
        if process is None or process.boot_id != self._boot_id:
            raise FailedPrecondition(f"container {target_id!r}, whose processes are to be seen, does not run")
        return process

    def _privileges(self, spec: ContainerSpec) -> Privileges:
        security = spec.config.security
        mask, ambient, missing = plan_capabilities(security, self._available)
        directory, log_denials = self._layout.profiles, self._settings.seccomp_log
        confinement = self._confinement(spec)
        program = seccomp.program(directory, confinement, mask, log=log_denials)
        labels = plan_labels(confinement)
        return Privileges(mask, ambient, missing, security.no_new_privs, program.code, program.flags, labels)

    def _confinement(self, spec: ContainerSpec) -> Confinement:
        if spec.confinement is not None:
            return spec.confinement
        mask, _, _ = plan_capabilities(spec.config.security, self._available)
        return profiles_of(self._settings, self._layout.profiles, spec.config.security, mask)

    def _warn(self, what: str, child: Child) -> None:
        """Log what could not be had; a lack of the node as a warning the first time only."""
        for text in child.warnings:
            self._tell(what, text)

    def _tell(self, what: str, text: str) -> None:
        level = logging.DEBUG if text in self._told else logging.WARNING
        if len(self._told) < _MOST_TOLD:  # some name a path
            self._told.add(text)
        log.log(level, "%s: %s", what, text)


async def _done(go: asyncio.Future[None]) -> None:
    """Wait for the go.

    Raises:
        Unavailable: nobody is there any more.
    """
    await asyncio.wait((go,))
    if go.cancelled():
        raise Unavailable("an exec is not wanted any more")


def _stdio(spec: ContainerSpec, streams: StreamOptions) -> Stdio:
    """Return streams that belong to the container's user, as the node knows it."""
    uid, gid = spec.user.uid, spec.user.gid
    if spec.userns is not None:
        uid, gid = spec.userns.outside(uid, gid)
    return Stdio(streams.stdin, streams.stdout, streams.stderr, streams.tty, uid, gid)


def _edited(spec: ContainerSpec) -> Iterator[DeviceNode]:
    for each in spec.edits.devices:
        yield each.path, each.type, each.major, each.minor, each.mode, each.uid, each.gid
