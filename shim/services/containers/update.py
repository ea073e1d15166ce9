"""UpdateContainerResources."""

from __future__ import annotations

import dataclasses
from typing import Final

from shim.errors import FailedPrecondition
from shim.model.container import ContainerState, ContainerStatus
from shim.model.resources import Resources
from shim.services.node import Node
from shim.services.validate import values

_MERGED: Final = ("unified", "hugepage_limits", "oom_score_adj")


def merge(old: Resources, new: Resources) -> Resources:
    """Return ``old`` with all that ``new`` gives; what it leaves out (0, empty) stays as it was.

    So does ``oom_score_adj``: it belongs to processes, and those that run keep theirs.
    """
    given = {
        field.name: value
        for field in dataclasses.fields(Resources)
        if (value := getattr(new, field.name)) and field.name not in _MERGED
    }
    pages = {page.page_size: page for page in (*old.hugepage_limits, *new.hugepage_limits)}
    return dataclasses.replace(
        old, **given, unified={**old.unified, **new.unified}, hugepage_limits=tuple(pages.values())
    )


async def update_container_resources(node: Node, id_: str, resources: Resources) -> None:
    """Change the limits of a container. One that is not started yet gets them when it starts.

    Raises:
        NotFound: no container has this id or prefix.
        InvalidArgument: a limit makes no sense.
        FailedPrecondition: it has ended, or the node lacks what is asked for.
        KernelError: the kernel refused. Whatever is wrong: all limits stay as they were.
    """
    values.resources("linux", resources, whole=False)
    id_ = node.records.container(id_).spec.id
    async with node.locks.hold(id_):
        view = node.records.container(id_)
        if view.state not in (ContainerState.CREATED, ContainerState.RUNNING):
            raise FailedPrecondition(f"cannot update container {id_!r}: it is {view.state.name}")
        merged = merge(view.status.resources, resources)
        values.resources("linux", merged)
        node.cgroups.check(merged)
        if view.state is ContainerState.RUNNING:
            await node.pools.cgroups.run(node.cgroups.update, view.spec.cgroup, merged)
        await node.records.update_container(id_, lambda status: _with_resources(status, merged))


def _with_resources(status: ContainerStatus, resources: Resources) -> ContainerStatus:
    return dataclasses.replace(status, resources=resources)
