"""StartContainer."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os

from shim.errors import FailedPrecondition, ShimError
from shim.model.cgroup import Place
from shim.model.container import ContainerStatus, ProcessRef
from shim.model.lifecycle import next_container_state
from shim.model.sandbox import SandboxState
from shim.services import device_rules
from shim.services.cgroup_removal import remove_cgroup
from shim.services.exit_reasons import START_ERROR, START_ERROR_EXIT_CODE
from shim.services.node import Node
from shim.services.undo import Undo
from shim.services.views import ContainerView, SandboxView
from shim.stages import stage
from shim.supervisor.logfile import LOG_FLAGS, LOG_MODE

log = logging.getLogger(__name__)


async def start_container(node: Node, id_: str) -> None:
    """Start the program of a container; return when it runs.

    A retry joins the start under way. A start that fails leaves the container EXITED with reason
    ``StartError``.

    Raises:
        NotFound: no container has this id or prefix.
        StateError: it has been started before.
        FailedPrecondition: its sandbox is not ready.
        ExecFailed: the program is missing or may not be run.
        KernelError: the kernel refused a step.
    """
    id_ = node.records.container(id_).spec.id
    await node.flights.join_or_start(
        ("start", id_), None, lambda: _start_locked(node, id_), what=f"start of container {id_}"
    )


async def _start_locked(node: Node, id_: str) -> None:
    async with node.locks.hold(id_):
        view = node.records.container(id_)
        next_container_state(id_, view.state, "start")
        sandbox = node.records.sandbox(view.spec.sandbox_id)
        if sandbox.state is not SandboxState.READY:
            raise FailedPrecondition(
                f"cannot start container {id_!r}: its sandbox {sandbox.spec.id!r} is NOTREADY"
            )
        try:
            process = await _start(node, sandbox, view)
        except (ShimError, OSError) as error:
            text = str(error)
            await node.records.update_container(id_, lambda status: _failed(node, status, text))
            await node.supervisor.forget(id_)
            raise
        await node.records.update_container(
            id_, lambda status: dataclasses.replace(status, started_at_ns=node.now_ns(), process=process)
        )
    log.info("container %s runs: pid %d", id_, process.pid)


async def _start(node: Node, sandbox: SandboxView, view: ContainerView) -> ProcessRef:
    cgroup = view.spec.cgroup
    async with Undo(f"start of container {view.spec.id}") as undo:
        undo.push("cgroup", lambda: remove_cgroup(node, cgroup))
        if view.spec.log_path:
            with stage("log file"):
                await node.pools.files.run(_make_log, view.spec.log_path)
        with stage("cgroup"):
            place = await node.pools.cgroups.run(_make_cgroup, node, view)
        with stage("process"):
            process = await node.launcher.container(sandbox.spec, view, place)
        undo.keep()
    return process


def _make_log(path: str) -> None:
    """Make the log file, so that it is there when StartContainer returns, however busy the logger is.

    Blocking. What is no place for a log costs the output, not the start: the logger tells of it.
    """
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    with contextlib.suppress(OSError):
        os.close(os.open(path, LOG_FLAGS, LOG_MODE))


def _make_cgroup(node: Node, view: ContainerView) -> Place:
    """Blocking: it looks at the node's devices."""
    devices = device_rules.of_container(view.spec)
    return node.cgroups.create(view.spec.cgroup, view.status.resources, devices)


def _failed(node: Node, status: ContainerStatus, message: str) -> ContainerStatus:
    """Also where the end of the child was taken in first: what counts is that it never ran the program."""
    return dataclasses.replace(
        status,
        started_at_ns=0,
        finished_at_ns=node.now_ns(),
        exit_code=START_ERROR_EXIT_CODE,
        reason=START_ERROR,
        message=message,
    )
