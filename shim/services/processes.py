"""Signals to processes that may be gone, or be others by now."""

from __future__ import annotations

import os
from errno import ESRCH

from shim.errors import KernelError
from shim.kernel import proc, process
from shim.model.container import ProcessRef


def send_signal(target: ProcessRef, signum: int) -> None:
    """Send a signal to exactly this process; do nothing if it is gone.

    A pidfd is opened first and the start time read after: from then on the pid cannot come to mean another.
    """
    try:
        pidfd = process.pidfd_open(target.pid)
    except KernelError as error:
        if error.errno == ESRCH:
            return
        raise
    try:
        if proc.start_time(target.pid) == target.start_time:
            process.pidfd_send_signal(pidfd, signum)
    except (KernelError, ProcessLookupError, FileNotFoundError) as error:
        if isinstance(error, KernelError) and error.errno != ESRCH:
            raise
    finally:
        os.close(pidfd)
