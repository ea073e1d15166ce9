"""Why a container's process has ended, in a sentence for a person. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from shim.model.container import ExitRecord
from shim.services.exit_reasons import OOM_KILLED, exit_reason


@dataclass(frozen=True, slots=True)
class Cause:
    """What is known of a container that has ended, beside the record of its end.

    Attributes:
        asked: a stop was asked for.
        killed: the grace of that stop was over.
        grace_s: that grace; 0: the stop had none.
        stop_signal: the number that a stop begins with.
        memory_limit_bytes: 0 means none.
        seccomp: name of the profile; may be empty.
    """

    asked: bool = False
    killed: bool = False
    grace_s: float = 0
    stop_signal: int = signal.SIGTERM
    memory_limit_bytes: int = 0
    seccomp: str = ""


def is_expected(record: ExitRecord, cause: Cause) -> bool:
    """Tell whether nobody needs to ask why: it ended well, or as it was asked to."""
    if record.source == "unknown":
        return False
    if cause.asked:
        return not (cause.killed and cause.grace_s) and exit_reason(record) != OOM_KILLED
    return record.exit_code == 0 and record.oom_kills == 0


def describe(record: ExitRecord, cause: Cause) -> str:
    """Return how it ended, and why as far as that is known."""
    if record.source == "unknown":
        return "ended while nobody could see it: the exit code is unknown, 255 is told instead"
    how = f"exit code {record.exit_code}"
    if record.signal:
        how += f", killed by {_name(record.signal)}"
    why = _why(record, cause)
    return f"{how}: {why}" if why else how


def _why(record: ExitRecord, cause: Cause) -> str:
    if exit_reason(record) == OOM_KILLED:
        return f"OOMKilled: {_limit(cause)}"
    if record.signal == signal.SIGSYS:
        profile = f" {cause.seccomp!r}" if cause.seccomp else ""
        return f"it made a system call that its seccomp profile{profile} answers with death"
    if cause.killed and cause.grace_s:
        name = _name(cause.stop_signal)
        return f"a stop was asked for, and it had not ended {cause.grace_s:g} s after {name}"
    if cause.killed:
        return "a stop without grace was asked for"
    if cause.asked:
        return "a stop was asked for"
    if record.oom_kills:
        return (
            f"the kernel's OOM killer has killed {record.oom_kills} of its processes before: {_limit(cause)}"
        )
    if record.signal == signal.SIGKILL:
        return "the signal came from outside of this program: from the container itself, or from the node"
    return ""


def _limit(cause: Cause) -> str:
    if cause.memory_limit_bytes:
        return f"it needed more than its memory limit of {cause.memory_limit_bytes} bytes"
    return "it has no memory limit of its own: the pod's was reached, or the node's memory is used up"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
