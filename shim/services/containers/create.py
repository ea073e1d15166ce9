"""CreateContainer: resolve what was asked against image and sandbox, and write it down. Nothing runs yet."""

from __future__ import annotations

import dataclasses
import logging
import posixpath
from collections.abc import Sequence

from shim.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from shim.model import ids
from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
)
from shim.model.image import Image
from shim.model.mount import ImageVolume, Rootfs
from shim.model.sandbox import SandboxConfig, SandboxState
from shim.runtime import container_parts
from shim.services import host_devices, host_files
from shim.services.cdi import names
from shim.services.cdi import resolve as cdi
from shim.services.confinement import selinux
from shim.services.confinement.resolve import resolve
from shim.services.containers import identity, process, signals, volumes
from shim.services.node import Node
from shim.services.undo import Undo
from shim.services.validate import container as checks
from shim.services.validate import namespaces, userns
from shim.services.views import ContainerView, SandboxView
from shim.stages import stage

log = logging.getLogger(__name__)


async def create_container(
    node: Node, sandbox_id: str, config: ContainerConfig, _sandbox_config: SandboxConfig | None = None
) -> str:
    """Make a container in a sandbox and return its id.

    A retry with the same name and an equal configuration joins the call under way, or collects the result
    of one whose caller left before the answer.

    Args:
        node: where.
        sandbox_id: a whole id or a prefix; the sandbox must be ready.
        config: what is asked.
        _sandbox_config: what the caller thinks the sandbox is; the stored one counts.

    Raises:
        InvalidArgument: the configuration can never be carried out.
        NotFound: the sandbox or the image is not here.
        FailedPrecondition: the sandbox is not ready, or the node lacks what is asked for.
        AlreadyExists: the name is taken; the text tells id and state of who has it.
    """
    checks.check(config)
    sandbox = node.records.sandbox(sandbox_id)
    if config.security.privileged and not sandbox.spec.config.security.privileged:
        raise InvalidArgument(
            f"no privileged container is allowed in sandbox {sandbox.spec.id}, which is not"
        )
    id_ = await node.flights.join_or_start(
        ("container", sandbox.spec.id, config.metadata),
        config,
        lambda: _find_or_make(node, sandbox.spec.id, config),
        what=_what(config.metadata, sandbox),
    )
    await node.records.update_container(id_, lambda status: dataclasses.replace(status, delivered=True))
    return id_


def _what(metadata: ContainerMetadata, sandbox: SandboxView) -> str:
    return f"container {metadata.name!r} (attempt {metadata.attempt}) of sandbox {sandbox.spec.id}"


async def _find_or_make(node: Node, sandbox_id: str, config: ContainerConfig) -> str:
    sandbox = _ready_sandbox(node, sandbox_id)
    there = node.records.container_by_name(sandbox_id, config.metadata)
    if there is not None:
        return _collect(there, sandbox, config)
    if config.security.privileged and not sandbox.spec.config.security.privileged:
        raise InvalidArgument(f"a privileged container needs a privileged sandbox: {sandbox.spec.id} is none")
    namespaces.check_container(config.security.namespaces, sandbox.spec.config.security.namespaces)
    userns.check_container(config, sandbox.spec)
    _check_target(node, sandbox_id, config)
    node.cgroups.check(config.resources)
    with stage("image"):
        image = node.images.resolve(config.image.image)
        volumes.declared(config, image)
        mounted = volumes.resolve_images(node, config)
        if mounted:
            await node.pools.plans.run(volumes.check_sub_paths, node, mounted)
    with stage("spec"):
        spec = await node.pools.plans.run(_resolve, node, sandbox, config, image)
    async with Undo(f"container {spec.id}") as undo:
        undo.push("snapshot", lambda: node.pools.files.run(node.images.snapshots.remove, spec.id))
        with stage("writable layer"):
            spec = await node.pools.files.run(_prepare, node, spec, image, [other for _, other in mounted])
        async with node.locks.hold(
            sandbox_id
        ):  # a stop of the sandbox sees this container, or this sees the stop
            _ready_sandbox(node, sandbox_id)
            with stage("record"):
                await node.records.create_container(spec, ContainerStatus(resources=config.resources))
        undo.keep()
    log.info("container %s is made: %s", spec.id, _what(config.metadata, sandbox))
    return spec.id


def _check_target(node: Node, sandbox_id: str, config: ContainerConfig) -> None:
    """Check the container whose processes are to be seen: of this pod, and running.

    Raises:
        InvalidArgument: it is another pod's.
        NotFound: there is none.
        FailedPrecondition: it does not run.
    """
    options = config.security.namespaces
    if options is None or not options.target_id:
        return
    target = node.records.container(options.target_id)
    if target.spec.sandbox_id != sandbox_id:
        raise InvalidArgument(
            f"target_id {options.target_id!r} is a container of another pod: {target.spec.sandbox_id}"
        )
    if target.state is not ContainerState.RUNNING:
        raise FailedPrecondition(
            f"target_id {options.target_id!r} names a container that is {target.state.name}, not RUNNING"
        )


def _resolve(node: Node, sandbox: SandboxView, config: ContainerConfig, image: Image) -> ContainerSpec:
    """Return the spec but for its root file system. Blocking: it reads files of the image and of the node."""
    id_ = ids.new_id()
    host_devices.find(config.devices, every=False)  # refuses what is none
    passwd = node.images.read_file(image, "/etc/passwd") or b""
    group = node.images.read_file(image, "/etc/group") or b""
    user, home = identity.resolve(config.security, image.config.user, passwd, group)
    hostname = host_files.pod_hostname(sandbox.spec.config, node.settings.hostname)
    added = cdi.resolve(node.cdi.find(names.requested(config)), user)
    user = identity.with_groups(user, added.gids)
    userns.check_user(user, sandbox.spec.userns)
    env = process.add_env(process.resolve_env(config, image.config, hostname), added.env)
    spec = ContainerSpec(
        id=id_,
        sandbox_id=sandbox.spec.id,
        config=config,
        image_id=image.id,
        image_ref=image.repo_digests[0] if image.repo_digests else image.id,
        user=user,
        log_path=log_path(sandbox.spec.config.log_directory, config.log_path),
        cgroup=node.cgroups.path(sandbox.spec.cgroup_parent, id_),
        stop_signal=signals.stop_signal(config.stop_signal, image.config.stop_signal),
        rootfs=Rootfs((), "", ""),
        argv=process.resolve_argv(config, image.config),
        cwd=process.resolve_cwd(config, image.config),
        env=process.add_home(env, home),
        created_at_ns=node.now_ns(),
        confinement=resolve(node.settings, node.layout.profiles, config, sandbox.spec),
        edits=added.edits,
        userns=sandbox.spec.userns,
    )
    container_parts.refuse(spec, sandbox.spec)
    return spec


def _prepare(node: Node, spec: ContainerSpec, image: Image, mounted: Sequence[Image]) -> ContainerSpec:
    """Make what it writes to, and return the spec with that. Blocking."""
    snapshots = node.images.snapshots
    rootfs = snapshots.prepare(spec.id, image, mounted, spec.userns)
    trees = tuple(snapshots.image_tree(spec.id, number, each) for number, each in enumerate(mounted))
    own = tuple(
        ImageVolume(path, snapshots.volume(spec.id, number))
        for number, path in enumerate(volumes.declared(spec.config, image))
    )
    if spec.confinement is not None and spec.confinement.mount_label:
        for each in own:
            selinux.label_one(each.directory, spec.confinement.mount_label)
    return dataclasses.replace(spec, rootfs=rootfs, image_trees=trees, image_volumes=own)


def log_path(directory: str, path: str) -> str:
    """Return the absolute path of the log; empty, for no log, unless both parts are given."""
    return posixpath.join(directory, path) if directory and path else ""


def _ready_sandbox(node: Node, sandbox_id: str) -> SandboxView:
    sandbox = node.records.sandbox(sandbox_id)
    if sandbox.state is not SandboxState.READY:
        raise FailedPrecondition(f"cannot create a container in sandbox {sandbox_id!r}: it is NOTREADY")
    return sandbox


def _collect(there: ContainerView, sandbox: SandboxView, config: ContainerConfig) -> str:
    same = there.spec.config == config
    if same and not there.status.delivered:
        return there.spec.id
    raise AlreadyExists(
        f"{_what(config.metadata, sandbox)} exists already: id {there.spec.id}, {there.state.name}"
        + ("" if same else ", with another configuration")
    )
