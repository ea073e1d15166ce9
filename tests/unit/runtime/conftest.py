"""A sandbox and a container to be planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shim.model.cgroup import CgroupJoin, Place
from shim.model.container import ContainerConfig, ContainerMetadata, ContainerSpec
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import NamespaceMode, NamespaceOptions, SandboxSecurity, User
from shim.runtime.container_parts import ContainerPlan
from shim.runtime.plan_process import Limits
from shim.runtime.privileges import Privileges

V1 = Place("/pods/c", CgroupJoin(("/cg/memory/pods/c/tasks", "/cg/cpu/pods/c/tasks"), "/cg/unified/pods/c"))
V2 = Place("/pods/c", CgroupJoin((), "/cg/pods/c"), "/cg/pods/c")
PINS = {"net": "/pins/net", "ipc": "/pins/ipc", "uts": "/pins/uts"}


@pytest.fixture
def sandbox() -> Callable[..., SandboxSpec]:
    """Return a function that makes a sandbox."""

    def make(pid: NamespaceMode = NamespaceMode.CONTAINER, pins: Any = None, **config: Any) -> SandboxSpec:
        security = SandboxSecurity(namespaces=NamespaceOptions(pid=pid))
        asked = SandboxConfig(SandboxMetadata("p", "u", "n"), security=security, **config)
        return SandboxSpec("s", asked, "", 0, "cgroupfs", "/pods", "builtin", PINS if pins is None else pins)

    return make


@pytest.fixture
def container(sandbox: Callable[..., SandboxSpec]) -> Callable[..., ContainerPlan]:
    """Return a function that makes all that a container is planned from."""

    def make(
        *,
        within: SandboxSpec | None = None,
        place: Place = V1,
        target: Any = None,
        resolved: Any = None,
        **config: Any,
    ) -> ContainerPlan:
        asked = ContainerConfig(ContainerMetadata("c"), ImageSpec("i"), **config)
        spec = ContainerSpec(
            id="c",
            sandbox_id="s",
            config=asked,
            image_id="i",
            image_ref="i",
            user=User(1000, 1001, (1001, 5)),
            log_path="",
            cgroup="/pods/c",
            stop_signal=15,
            rootfs=Rootfs(("/layers/2", "/layers/1"), "/upper", "/work"),
            argv=("program", "argument"),
            cwd="/home",
            env=(b"PATH=/bin", b"RAW=\xff"),
            created_at_ns=0,
            **(resolved or {}),
        )
        files = {"/etc/hosts": "/pod/hosts", "/etc/resolv.conf": "/pod/resolv.conf"}
        return ContainerPlan(
            spec, within or sandbox(), place, Privileges(0b11), Limits(()), files, "/pod/shm", target=target
        )

    return make


@pytest.fixture
def v2() -> Place:
    """Return a place in a unified hierarchy."""
    return V2
