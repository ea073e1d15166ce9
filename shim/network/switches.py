"""Switches of the kernel (sysctls) that belong to the node."""

from __future__ import annotations

import os
from typing import Final

from shim.errors import FailedPrecondition

PROC_SYS: Final = "/proc/sys"


def get(name: str, proc_sys: str = PROC_SYS) -> str:
    """Return what a switch is set to; empty where the kernel does not have it."""
    try:
        with open(os.path.join(proc_sys, name)) as file:
            return file.read().strip()
    except OSError:
        return ""


def set_switch(name: str, value: str, proc_sys: str = PROC_SYS) -> None:
    """Write a switch unless it is so already: /proc/sys may be read-only.

    Raises:
        FailedPrecondition: it cannot be written.
    """
    path = os.path.join(proc_sys, name)
    try:
        with open(path) as file:
            if file.read().strip() == value:
                return
        with open(path, "w") as file:
            file.write(value)
    except OSError as error:
        raise FailedPrecondition(f"cannot set {path} to {value}: {error.strerror}") from error
