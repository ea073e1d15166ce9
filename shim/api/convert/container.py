"""Containers."""

from __future__ import annotations

from collections.abc import Iterator

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api.convert import check
from shim.api.convert.image import decode_image_spec, encode_image_spec
from shim.api.convert.mount import decode_volume, encode_volume
from shim.api.convert.resources import decode_resources, encode_resources
from shim.api.convert.security import decode_container_security, encode_container_security
from shim.model import container
from shim.services.containers import signals
from shim.services.views import ContainerView


def encode_metadata(value: container.ContainerMetadata) -> cri.ContainerMetadata:
    """Return which container of the pod it is, as a message."""
    return cri.ContainerMetadata(name=value.name, attempt=value.attempt)


def decode_container_config(message: cri.ContainerConfig) -> container.ContainerConfig:
    """Return what is asked of a container.

    Raises:
        InvalidArgument: it has no metadata or image, or an enum has a value that nobody knows.
    """
    if not message.HasField("metadata"):
        raise errors.InvalidArgument("config.metadata is missing: a container needs a name")
    if not message.image.image:
        raise errors.InvalidArgument("config.image.image is missing: a container needs an image")
    signals.from_cri(message.stop_signal)  # refuses what is none
    return container.ContainerConfig(
        metadata=container.ContainerMetadata(message.metadata.name, message.metadata.attempt),
        image=decode_image_spec(message.image),
        command=tuple(message.command),
        args=tuple(message.args),
        working_dir=message.working_dir,
        envs=tuple(container.EnvVar(each.key, each.value) for each in message.envs),
        volumes=tuple(decode_volume(each) for each in message.mounts),
        devices=tuple(
            container.Device(each.container_path, each.host_path, each.permissions)
            for each in message.devices
        ),
        cdi_devices=tuple(each.name for each in message.CDI_devices),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        log_path=message.log_path,
        stdin=message.stdin,
        stdin_once=message.stdin_once,
        tty=message.tty,
        resources=decode_resources(message.linux.resources),
        security=decode_container_security(message.linux.security_context),
        stop_signal=message.stop_signal,
    )


def encode_container_config(value: container.ContainerConfig) -> cri.ContainerConfig:
    """Return what was asked of a container, as a message."""
    return cri.ContainerConfig(
        metadata=encode_metadata(value.metadata),
        image=encode_image_spec(value.image),
        command=value.command,
        args=value.args,
        working_dir=value.working_dir,
        envs=[cri.KeyValue(key=each.key, value=each.value) for each in value.envs],
        mounts=[encode_volume(each) for each in value.volumes],
        devices=[
            cri.Device(
                container_path=each.container_path,
                host_path=each.host_path,
                permissions=each.permissions,
            )
            for each in value.devices
        ],
        CDI_devices=[cri.CDIDevice(name=each) for each in value.cdi_devices],
        labels=value.labels,
        annotations=value.annotations,
        log_path=value.log_path,
        stdin=value.stdin,
        stdin_once=value.stdin_once,
        tty=value.tty,
        linux=cri.LinuxContainerConfig(
            resources=encode_resources(value.resources),
            security_context=encode_container_security(value.security),
        ),
        stop_signal=check.wire(value.stop_signal),
    )


def encode_container(spec: container.ContainerSpec, state: container.ContainerState) -> cri.Container:
    """Return a container as it stands in a list."""
    config = spec.config
    return cri.Container(
        id=spec.id,
        pod_sandbox_id=spec.sandbox_id,
        metadata=encode_metadata(config.metadata),
        image=encode_image_spec(config.image),
        image_ref=spec.image_ref,
        state=check.wire(state),
        created_at=spec.created_at_ns,
        labels=config.labels,
        annotations=config.annotations,
        image_id=spec.image_id,
    )


def _encode_mounts(spec: container.ContainerSpec) -> Iterator[cri.Mount]:
    """Yield the volumes as asked for, an image with the id of what is mounted (CRI ImageSpec.image_ref)."""
    trees = iter(spec.image_trees)
    for volume in spec.config.volumes:
        message = encode_volume(volume)
        if volume.image is not None and (tree := next(trees, None)) is not None:
            message.image.image_ref = tree.image_ref
        yield message


def encode_container_status(view: ContainerView) -> cri.ContainerStatus:
    """Return a container with all that a kubelet asks about, whether or not its image is still there."""
    spec, status, config = view.spec, view.status, view.spec.config
    return cri.ContainerStatus(
        id=spec.id,
        metadata=encode_metadata(config.metadata),
        state=check.wire(view.state),
        created_at=spec.created_at_ns,
        started_at=status.started_at_ns,
        finished_at=status.finished_at_ns,
        exit_code=status.exit_code,
        image=encode_image_spec(config.image),
        image_ref=spec.image_ref,
        reason=status.reason,
        message=status.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=list(_encode_mounts(spec)),
        log_path=spec.log_path,
        resources=cri.ContainerResources(linux=encode_resources(status.resources)),
        image_id=spec.image_id,
        user=cri.ContainerUser(
            linux=cri.LinuxContainerUser(
                uid=spec.user.uid, gid=spec.user.gid, supplemental_groups=spec.user.groups
            )
        ),
        stop_signal=check.wire(signals.to_cri(spec.stop_signal)),
    )
