"""What the kubelet is told about an end. Pure."""

from __future__ import annotations

from typing import Final

from shim.model.container import ExitRecord

OOM_KILLED: Final = "OOMKilled"
COMPLETED: Final = "Completed"
ERROR: Final = "Error"
UNKNOWN: Final = "Unknown"
START_ERROR: Final = "StartError"

_SIGKILL: Final = 9
UNKNOWN_EXIT_CODE: Final = 255
START_ERROR_EXIT_CODE: Final = 128


def exit_reason(record: ExitRecord) -> str:
    """Return the reason the kubelet shows for an exit.

    ``OOMKilled`` only for a process that died of SIGKILL in a cgroup where the kernel's OOM killer struck: a
    child that was killed for memory while the container went on to end well is not an OOM of the container.
    """
    if record.source == "unknown":
        return UNKNOWN
    if record.signal == _SIGKILL and record.oom_kills > 0:
        return OOM_KILLED
    return COMPLETED if record.exit_code == 0 else ERROR
