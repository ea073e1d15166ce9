"""ExecSync: run a command in a container, collect what it writes, tell how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from shim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from shim.model import ids
from shim.model.container import ContainerState
from shim.services.cgroup_removal import remove_exec_cgroup_later
from shim.services.containers.capture import Capture
from shim.services.node import Node
from shim.services.validate import container as checks
from shim.services.views import ContainerView, ExecResult
from shim.services.waiters import comes_first
from shim.stages import stage

log = logging.getLogger(__name__)

_KILLED_WITHIN_S: Final = 5.0  # a process that the kernel cannot kill must not keep the caller


async def exec_sync(node: Node, id_: str, cmd: tuple[str, ...], timeout_s: float = 0) -> ExecResult:
    """Run ``cmd`` to its end in a container.

    Output beyond ``settings.exec_output_bytes`` (both streams together) is read and dropped, so that the
    command goes on and the answer fits into a kubelet's message. When the command ends, its output is taken
    for a short time more; what children in the background write later is lost. On timeout, or when the
    caller leaves, the command and everything it started is killed.

    Args:
        node: where.
        id_: a whole id or a prefix.
        cmd: program and arguments.
        timeout_s: 0 or less means none.

    Raises:
        NotFound: no container has this id or prefix.
        InvalidArgument: no command, or one that the kernel cannot take.
        FailedPrecondition: the container does not run.
        ExecFailed: the program is missing or may not be run.
        DeadlineExceeded: it took longer than ``timeout_s``.
    """
    if not cmd:
        raise InvalidArgument("cmd is empty: it must name a program")
    checks.check_argv("cmd", cmd)
    view = node.records.container(id_)
    if view.state is not ContainerState.RUNNING:
        raise FailedPrecondition(f"cannot exec in container {view.spec.id!r}: it is {view.state.name}")
    exec_id = ids.new_id()
    abandoned = asyncio.Event()
    try:
        return await node.flights.join_or_start(
            ("exec", exec_id),
            None,
            lambda: _run(node, view, exec_id, cmd, timeout_s, abandoned),
            what=f"exec {exec_id} in container {view.spec.id}",
        )
    finally:
        abandoned.set()


async def _run(
    node: Node,
    view: ContainerView,
    exec_id: str,
    cmd: tuple[str, ...],
    timeout_s: float,
    abandoned: asyncio.Event,
) -> ExecResult:
    """Runs in a task of its own, so that what was started is ended and put away whoever leaves."""
    deadline = asyncio.get_running_loop().time() + timeout_s if timeout_s > 0 else None
    number = next(node.exec_numbers)
    with stage("cgroup"):
        place = await node.pools.cgroups.run(node.cgroups.create_exec, view.spec.cgroup, number)
    exited = node.waiters.expect(exec_id)
    try:
        launch = asyncio.ensure_future(node.launcher.exec(view, exec_id, cmd, place))
        if not await comes_first(launch, abandoned, deadline):  # a frozen container lets nobody in
            await node.supervisor.kill(exec_id)
            launch.add_done_callback(_close_outputs)
            raise _too_late(view, timeout_s)
        capture = Capture(launch.result(), node.settings.exec_output_bytes)
        try:
            if not await comes_first(exited, abandoned, deadline):
                await node.supervisor.kill(exec_id)
                await asyncio.wait((exited,), timeout=_KILLED_WITHIN_S)
                raise _too_late(view, timeout_s)
            await capture.finish(node.settings.exec_drain_s)
        finally:
            capture.close()
    finally:
        node.waiters.drop(exec_id)
        remove_exec_cgroup_later(node, view.spec.cgroup, number)
    if capture.dropped_bytes:
        log.warning("exec in container %s: %d bytes of output dropped", view.spec.id, capture.dropped_bytes)
    return ExecResult(
        capture.output("stdout"), capture.output("stderr"), exited.result().exit_code, capture.dropped_bytes
    )


def _too_late(view: ContainerView, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"exec in container {view.spec.id!r} took longer than {timeout_s:g} s; it is killed"
    )


def _close_outputs(launch: asyncio.Future[dict[str, int]]) -> None:
    if not launch.cancelled() and launch.exception() is None:
        for fd in launch.result().values():
            os.close(fd)
