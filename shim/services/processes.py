"""Signals to processes that may be gone, or be others by now."""

from __future__ import annotations

import os
from errno import ESRCH

from shim.errors import KernelError
from shim.kernel import process
from shim.model.container import ProcessRef


def send_signal(target: ProcessRef, signum: int) -> None:
    """Send a signal to exactly this process; do nothing if it is gone."""
    pidfd = process.hold(target.pid, target.start_time)
    if pidfd is None:
        return
    try:
        process.pidfd_send_signal(pidfd, signum)
    except KernelError as error:
        if error.errno != ESRCH:
            raise
    finally:
        os.close(pidfd)
