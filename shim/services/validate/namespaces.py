"""Namespaces: what a container may say of those of its pod. Pure."""

from __future__ import annotations

from shim.errors import InvalidArgument
from shim.model.security import NamespaceMode, NamespaceOptions


def check_container(asked: NamespaceOptions | None, pods: NamespaceOptions) -> None:
    """Check that a container is where its pod is; of the PID namespace it may have one of its own.

    ``POD`` is the namespace that the pod has, the node's included.

    Args:
        asked: of the container; None means the pod's.
        pods: of its sandbox.

    Raises:
        InvalidArgument: names the option, and why it is not possible.
    """
    if asked is None:
        return
    for kind, mode, pod in (("network", asked.network, pods.network), ("ipc", asked.ipc, pods.ipc)):
        if mode is not NamespaceMode.POD and mode is not pod:
            raise InvalidArgument(
                f"namespace_options.{kind} of the container is {mode.name}, but that of its pod is"
                f" {pod.name}: all containers of a pod share it"
            )
    if asked.pid is NamespaceMode.NODE and pods.pid is not NamespaceMode.NODE:
        raise InvalidArgument(
            f"namespace_options.pid of the container is NODE, but that of its pod is {pods.pid.name}: only"
            " in a pod on the node's PID namespace can it be there"
        )
    if asked.pid is NamespaceMode.TARGET and not asked.target_id:
        raise InvalidArgument("namespace_options.pid is TARGET, but target_id names no container")
    if asked.target_id and asked.pid is not NamespaceMode.TARGET:
        raise InvalidArgument(
            f"namespace_options.target_id is {asked.target_id[:64]!r}, but pid is {asked.pid.name}: only"
            " TARGET has one"
        )
