"""Pins of namespaces on a real kernel: made, found again, removed, also without a record."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shim.kernel import mount, namespaces
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import NamespaceOptions
from shim.services.sandboxes.namespaces import (
    leftovers,
    make_places,
    pinned_paths,
    plan_pins,
    remove_places,
)
from shim.store.layout import Layout

ID = "a" * 64


@pytest.mark.root
def test_what_is_pinned_is_found_and_goes_without_a_record(
    tmp_path: Path, in_namespaces: Callable[[Callable[[], Any]], Any]
) -> None:
    layout = Layout(str(tmp_path / "root"), str(tmp_path / "state"))
    pins = plan_pins(layout, str(tmp_path / "netns"), ID, NamespaceOptions())
    config = SandboxConfig(SandboxMetadata("web", "u1", "default"))
    spec = SandboxSpec(ID, config, "", 1, "cgroupfs", "/p", "builtin", pins)

    def body() -> tuple[set[str], list[str], set[str], list[str], list[str]]:
        make_places(layout, spec)
        namespaces.unshare(namespaces.KINDS["net"] | namespaces.KINDS["uts"] | namespaces.KINDS["ipc"])
        for kind in ("net", "uts", "ipc"):
            mount.mount(f"/proc/self/ns/{kind}", pins[kind], None, mount.MS_BIND)
        mount.mount("shm", layout.shm(ID), "tmpfs", 0, "mode=1777")
        pinned = {kind for kind, path in pins.items() if path in pinned_paths()}
        found = leftovers(layout, frozenset())
        for _ in range(2):
            remove_places(layout, ID)
        still = {kind for kind, path in pins.items() if path in pinned_paths()}
        return pinned, found, still, os.listdir(tmp_path / "netns"), leftovers(layout, frozenset())

    assert in_namespaces(body) == ({"net", "uts", "ipc"}, [ID], set(), [], [])
