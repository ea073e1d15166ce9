"""Mounts of a container with the label of a security module (SELinux). Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from shim.kernel import mount
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import MountNew, MountOverlay, OpenNew

# What else is mounted has labels by the policy: proc, sysfs, cgroups.
_LABELLED: Final = ("tmpfs", "devpts")
_SHARED: Final = "mqueue"  # one file system in all mounts of an IPC namespace


def label_mounts(steps: Iterable[Step], label: str) -> list[Step]:
    """Return steps that give the image's layers and memory file systems a label; empty changes none."""
    return [_labelled(step, label) for step in steps] if label else list(steps)


def _labelled(step: Step, label: str) -> Step:
    if isinstance(step, MountOverlay) or (isinstance(step, MountNew | OpenNew) and step.fstype in _LABELLED):
        return dataclasses.replace(step, options=(*step.options, *mount.context_options(label)))
    if isinstance(step, MountNew) and step.fstype == _SHARED:
        return dataclasses.replace(step, label=label)
    return step
