"""What the plans of a container have in common, with and without a user namespace. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shim.errors import InvalidArgument, Unimplemented
from shim.kernel import mount
from shim.model.cgroup import Place
from shim.model.container import ContainerSpec, ProcessRef
from shim.model.mount import Propagation
from shim.model.sandbox import SandboxSpec
from shim.model.security import NamespaceMode
from shim.runtime import default_files as defaults
from shim.runtime.plan_process import Limits
from shim.runtime.plan_volumes import CGROUPS, asked_volumes, normal
from shim.runtime.privileges import Privileges
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import MountNew, ProtectPaths
from shim.runtime.steps_namespaces import Unshare
from shim.runtime.steps_volumes import ShowCgroups


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """All that the plan of a container is made from.

    Attributes:
        pod_files: container path to the host path of a file of the pod (hosts, hostname, resolv.conf).
        shm: host directory that is the pod's /dev/shm.
        devices: tuples as of MakeDevices, besides the default ones.
        mount_label: of SELinux; empty for none.
        target: the process whose PID namespace is joined (mode TARGET).
    """

    spec: ContainerSpec
    sandbox: SandboxSpec
    place: Place
    privileges: Privileges
    limits: Limits
    pod_files: Mapping[str, str]
    shm: str
    devices: tuple[defaults.DeviceNode, ...] = ()
    target: ProcessRef | None = None
    mount_label: str = ""


def shared_kinds(c: ContainerPlan) -> tuple[str, ...]:
    """Return the kinds of the pod's namespaces that the container joins."""
    kinds = [kind for kind in ("net", "ipc", "uts") if kind in c.sandbox.pins]
    if pid_mode(c.spec, c.sandbox) is NamespaceMode.POD and "pid" in c.sandbox.pins:
        kinds.append("pid")
    return tuple(kinds)


def pid_mode(spec: ContainerSpec, sandbox: SandboxSpec) -> NamespaceMode:
    """Return whose PID namespace the container is in.

    A container that shares its pod's is where the pod is: the node's, or, in a pod without one, its own.
    """
    asked = spec.config.security.namespaces
    pods = sandbox.config.security.namespaces.pid
    mode = pods if asked is None else asked.pid
    return pods if mode is NamespaceMode.POD else mode


def target_of(c: ContainerPlan) -> ProcessRef | None:
    """Return the process whose PID namespace is joined; None but for mode TARGET.

    Raises:
        InvalidArgument: it does not run.
    """
    if pid_mode(c.spec, c.sandbox) is not NamespaceMode.TARGET:
        return None
    if c.target is None:
        raise InvalidArgument("pid namespace mode TARGET needs the container that it names to run")
    return c.target


def early_mounts(c: ContainerPlan, replaced: frozenset[str]) -> Iterable[MountNew]:
    """Return the default mounts that no volume replaces, as stage 1 makes them."""
    mounts = defaults.early_mounts(readonly_sys=not c.spec.config.security.privileged)
    return (each for each in mounts if each.target not in replaced)


def v1_cgroups(c: ContainerPlan, replaced: frozenset[str]) -> Iterable[Step]:
    """Show each hierarchy from the container's own cgroup down: version 1 has no better way."""
    if not c.place.join.v1_tasks or replaced & {"/sys", CGROUPS}:
        return
    binds = []
    for tasks in c.place.join.v1_tasks:
        directory = posixpath.dirname(tasks)
        binds.append((directory, posixpath.basename(directory.removesuffix(c.place.path))))
    yield ShowCgroups(CGROUPS, tuple(binds), defaults.PLAIN | _readonly(c))


def v2_cgroups(c: ContainerPlan, replaced: frozenset[str]) -> Iterable[Step]:
    """Show the container's own cgroup as the whole hierarchy; stage 2 does it, which was born in there."""
    if not c.place.join.v1_tasks and not replaced & {"/sys", CGROUPS}:
        # A privileged one looks after the node, as elsewhere: it sees the whole tree.
        if not c.spec.config.security.privileged or c.spec.userns is not None:
            yield Unshare(("cgroup",))
        yield MountNew("cgroup2", "cgroup", CGROUPS, defaults.PLAIN | _readonly(c), ())


def _readonly(c: ContainerPlan) -> int:
    return 0 if c.spec.config.security.privileged else mount.MOUNT_ATTR_RDONLY


def protection(c: ContainerPlan) -> Iterable[Step]:
    """Return what hides parts of /proc and /sys.

    A kubelet always says what, but where /proc is to be unmasked (ProcMount); that is for pods with a user
    namespace alone. In others a request that says nothing means the usual.
    """
    security = c.spec.config.security
    if security.privileged:
        return
    masked, readonly = security.masked_paths, security.readonly_paths
    if not masked and not readonly and c.spec.userns is None:
        masked, readonly = defaults.MASKED_PATHS, defaults.READONLY_PATHS
    if masked or readonly:
        yield ProtectPaths(masked, readonly, c.mount_label)


def refuse(spec: ContainerSpec, sandbox: SandboxSpec) -> None:
    """Refuse what no plan can do; also asked when a container is made.

    Raises:
        InvalidArgument: what.
        Unimplemented: hooks of a device cannot be run in this pod.
    """
    if spec.edits.hooks and "user" in sandbox.pins:
        raise Unimplemented("hooks of CDI devices cannot be run for a pod with a user namespace")
    volumes = asked_volumes(spec)
    if spec.config.tty and "/dev/pts" in {normal(volume.container_path) for volume in volumes}:
        raise InvalidArgument("a container with a terminal cannot have a volume at /dev/pts")
    for volume in volumes:
        if normal(volume.container_path) == "/proc" and volume.host_path != "/proc":
            raise InvalidArgument(
                "a volume at /proc must be the node's /proc: no other is a proc file system"
            )
    if spec.userns is not None:
        _refuse_in_userns(spec, sandbox)


def _refuse_in_userns(spec: ContainerSpec, sandbox: SandboxSpec) -> None:
    if pid_mode(spec, sandbox) is NamespaceMode.NODE:
        raise InvalidArgument("a container in a user namespace cannot be in the node's PID namespace")
    paths = (
        *(device.container_path for device in spec.config.devices),
        *(node.path for node in spec.edits.devices),
    )
    for path in paths:
        if not path.startswith("/dev/"):
            raise InvalidArgument(f"device {path!r}: with a user namespace devices lie below /dev")
    for volume in spec.config.volumes:
        if volume.propagation is Propagation.BIDIRECTIONAL:
            raise InvalidArgument(
                f"the mount on {volume.container_path!r} cannot be bidirectional: what is mounted in"
                " a user namespace does not reach the node"
            )
