"""The steps that run a container's hooks. Pure.

A hook looks for the container's root in ``config.json`` (``root.path``): that is the directory over which the
overlay is mounted in the container's mount namespace, so a hook of the container finds the whole root there.
One of the runtime, in the node's, finds it by the pid of the state.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable
from typing import Final

from shim.model.container import ContainerSpec
from shim.model.edits import CREATE_CONTAINER, CREATE_RUNTIME, PRESTART
from shim.runtime.steps import Step
from shim.runtime.steps_hooks import HoldHost, RunHooks

OCI_VERSION: Final = "1.0.2"
_ORDER: Final = (PRESTART, CREATE_RUNTIME, CREATE_CONTAINER)


def before(spec: ContainerSpec) -> Iterable[Step]:
    """Return what must be done while the first stage still is in the node's namespaces."""
    if any(hook.moment != CREATE_CONTAINER for hook in spec.edits.hooks):
        yield HoldHost()


def run(spec: ContainerSpec, hostname: str) -> Iterable[Step]:
    """Return what is done when the root stands and nobody has entered it."""
    hooks = sorted(spec.edits.hooks, key=lambda hook: _ORDER.index(hook.moment))
    if hooks:
        bundle = posixpath.dirname(spec.rootfs.upper)
        yield RunHooks(
            tuple((hook.moment, hook.path, hook.args, hook.env, hook.timeout_s) for hook in hooks),
            bundle,
            json.dumps(_config(spec, hostname)),
            json.dumps(_state(spec, bundle)),
        )


def _state(spec: ContainerSpec, bundle: str) -> dict[str, object]:
    annotations = dict(spec.config.annotations)
    return {
        "ociVersion": OCI_VERSION,
        "id": spec.id,
        "status": "creating",
        "bundle": bundle,
        "annotations": annotations,
    }


def _config(spec: ContainerSpec, hostname: str) -> dict[str, object]:
    user = spec.user
    return {
        "ociVersion": OCI_VERSION,
        "root": {"path": spec.rootfs.upper, "readonly": spec.config.security.readonly_rootfs},
        "process": {
            "terminal": spec.config.tty,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
            "args": list(spec.argv),
            "env": [os.fsdecode(entry) for entry in spec.env],
            "cwd": spec.cwd,
        },
        "hostname": hostname,
        "annotations": dict(spec.config.annotations),
        "linux": {"cgroupsPath": spec.cgroup},
    }
