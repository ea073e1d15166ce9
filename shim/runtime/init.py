"""The init child: from a fork of the supervisor to the user's program.

    supervisor                stage 1 (host's namespaces)            stage 2 (the container's)
      | fork ------------------> |
      |                          | opens host paths, joins and makes
      |                          | namespaces, assembles the root
      |                          | clone3(CLONE_PARENT) ----------------> |
      | <------ announcement --- | pid, pidfd, terminal                   | waits for nothing but ``go``
      |                          | exit                                   | /proc, limits, user, execve

Stage 2 is a child of the supervisor, is born inside its cgroup2 directory and its pid namespace, and is all
that the container sees or pays for. One long straight function with a reason at each step is right here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

from shim.errors import FailedPrecondition, KernelError
from shim.kernel import process, unix
from shim.runtime import steps_hooks as _hooks
from shim.runtime import steps_images as _images
from shim.runtime import steps_labels as _labels
from shim.runtime import steps_mounts as _mounts
from shim.runtime import steps_namespaces as _namespaces
from shim.runtime import steps_process as _process
from shim.runtime import steps_reaper as _reaper
from shim.runtime import steps_users as _users
from shim.runtime import steps_volumes as _volumes
from shim.runtime import wire
from shim.runtime.context import Context
from shim.runtime.plan import Plan, decode_plan, encode_plan
from shim.runtime.steps import Step

# What stage 1 sends on ``announce``: the pid in the host's pid namespace; the pidfd and, if there is one, the
# terminal's master come as descriptors, in this order.
ANNOUNCEMENT: Final = struct.Struct("=q")

# Importing them makes their steps known to ``decode_plan``.
STEP_MODULES: Final = (
    _hooks,
    _images,
    _labels,
    _mounts,
    _namespaces,
    _process,
    _reaper,
    _users,
    _volumes,
)

_FAILED: Final = 128
_PRACTICE: Final = encode_plan(
    Plan("practice", (_process.Streams(0, 0),), (_process.Execute(("true",), ("PATH=/bin",)),))
)
# Signals that Python's ``signal`` cannot reset; whoever started the daemon may have had them ignored.
_OF_THE_C_LIBRARY: Final = (32, 33)


# Kept, never freed: the caches hold the name of every file beside the interpreter's modules, and to free them
# in each child would copy hundreds of pages that it shares with the supervisor.
_IMPORT_STATE: Final = (sys.meta_path, sys.path, sys.path_hooks, sys.path_importer_cache)


def forbid_imports() -> None:
    """Make sure that nothing can be imported any more.

    In the container's root file system an import would find the image's Python, and run it as root.
    """
    sys.meta_path = []
    sys.path = []
    sys.path_hooks = []
    sys.path_importer_cache = {}


def warm() -> None:
    """Do what every plan needs before it is there: a waiting child copies its pages while nobody waits.

    Runs in: a fork of the supervisor, before it has a plan.
    """
    os.umask(0o022)
    process.reset_scheduling()
    for number in _OF_THE_C_LIBRARY:
        process.reset_signal(number)
    forbid_imports()
    decode_plan(_PRACTICE)


def run(plan: bytes, fds: Mapping[str, int]) -> NoReturn:
    """Carry out a plan in a freshly forked child; never return.

    Runs in: a fork of the supervisor, which has closed all other descriptors and reset the signals, and has
    called ``warm``.

    Args:
        plan: as ``encode_plan`` made it.
        fds: ``sync``, ``announce``, and ``stdin``, ``stdout``, ``stderr`` unless the plan opens a terminal.
    """
    context = Context(fds)
    try:
        todo = decode_plan(plan)
        _carry_out(todo.stage1, context)
        if todo.stage2:
            _second_stage(todo, context)
    except BaseException as error:
        _fail(error, context)
    os._exit(0)


def _second_stage(plan: Plan, context: Context) -> None:
    try:
        if plan.unseen:
            _let_go(context)
            pid, pidfd = process.clone(process.CLONE_PARENT)
        else:
            pid, pidfd = process.clone3(process.CLONE_PARENT, context.cgroup_fd)
    except KernelError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise FailedPrecondition(
            "cannot fork: the node has no memory, or the PID namespace has lost its first process"
        ) from None
    if pid:
        up = [pidfd] if context.tty_master is None else [pidfd, context.tty_master]
        with socket.socket(fileno=context.fds["announce"]) as sock:
            unix.send_message(sock, ANNOUNCEMENT.pack(pid), up)
        return
    try:
        process.set_dumpable(False)
        os.close(context.fds["announce"])
        if context.tty_master is not None:
            os.close(context.tty_master)
        if plan.hold:
            _carry_out((_process.AwaitGo(),), context)
        _carry_out(plan.stage2, context)
    except BaseException as error:
        _fail(error, context)
    os._exit(0)


def _let_go(context: Context) -> None:
    """Close what no later step needs, before somebody sees it."""
    for name in [name for name in context.kept if name != "terminal"]:
        os.close(context.take(name))


def _carry_out(steps: tuple[Step, ...], context: Context) -> None:
    for step in steps:
        context.stage = step.describe()
        step.execute(context)


def _fail(error: BaseException, context: Context) -> NoReturn:
    """Tell the daemon and end; without a daemon there is nobody to tell."""
    try:
        wire.send(context.fds["sync"], wire.encode_error(error, context.stage))
    finally:
        os._exit(getattr(error, "exit_code", _FAILED))
