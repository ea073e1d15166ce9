from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import AlreadyExists, InvalidArgument, NotFound
from shim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerSpec,
    ContainerStatus,
    EnvVar,
)
from shim.model.image import ImageSpec
from shim.model.mount import Rootfs
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec, SandboxStatus
from shim.model.security import User
from shim.store import records
from shim.store.containers import ContainerStore
from shim.store.layout import Layout
from shim.store.sandboxes import SandboxStore

A, B = "a" * 64, "ab" * 32
GOLDEN = Path(__file__).parent / "golden"


def sandbox(id_: str, name: str = "web") -> SandboxSpec:
    config = SandboxConfig(SandboxMetadata(name, "uid", "default"), labels={"app": "x"})
    return SandboxSpec(id_, config, "", 1, "cgroupfs", "/cri-shim", "builtin", {"net": "/run/netns/x"})


def container(env: bytes = b"\xff\x00") -> ContainerSpec:
    config = ContainerConfig(ContainerMetadata("c"), ImageSpec("busybox"), envs=(EnvVar("X", env),))
    rootfs = Rootfs(("/l",), "/u", "/w")
    return ContainerSpec(
        A,
        B,
        config,
        "sha256:0",
        "busybox@sha256:0",
        User(0, 0),
        "",
        "/p/x",
        15,
        rootfs,
        ("sh",),
        "/",
        (env,),
        7,
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(str(tmp_path / "root"), str(tmp_path / "state"))
    made.make()
    return made


def test_what_was_created_is_found_by_the_next_daemon(layout: Layout) -> None:
    store = SandboxStore(layout)
    store.create(sandbox(A), SandboxStatus())
    store.set_status(A, SandboxStatus(ready_at_ns=5, delivered=True))
    again = SandboxStore(layout)
    assert again.load_all() == []
    assert again.get(A) == (sandbox(A), SandboxStatus(ready_at_ns=5, delivered=True))


def test_a_name_is_given_once_and_free_after_removal(layout: Layout) -> None:
    store = SandboxStore(layout)
    store.create(sandbox(A), SandboxStatus())
    with pytest.raises(AlreadyExists, match=A):
        store.create(sandbox(B), SandboxStatus())
    store.remove(A)
    store.remove(A)
    store.create(sandbox(B), SandboxStatus())
    assert store.by_name(("web", "default", "uid", 0)) == B


def test_prefixes(layout: Layout) -> None:
    store = SandboxStore(layout)
    store.create(sandbox(A, "one"), SandboxStatus())
    store.create(sandbox(B, "two"), SandboxStatus())
    assert [store.resolve_prefix(p) for p in ("a", "aa", "ab", "x", "", A)] == [None, A, B, None, None, A]


def test_an_id_that_is_a_path_is_refused(layout: Layout) -> None:
    store = SandboxStore(layout)
    with pytest.raises(InvalidArgument):
        store.create(sandbox("../../etc"), SandboxStatus())
    store.remove("../..")
    assert Path(layout.root).exists()


def test_an_unknown_object_has_no_status_to_set(layout: Layout) -> None:
    with pytest.raises(NotFound):
        SandboxStore(layout).set_status(A, SandboxStatus())


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 2}', b"\xff"])
def test_what_cannot_be_read_is_set_aside_and_the_rest_is_there(layout: Layout, damage: bytes) -> None:
    store = SandboxStore(layout)
    store.create(sandbox(A, "one"), SandboxStatus())
    store.create(sandbox(B, "two"), SandboxStatus())
    (Path(layout.sandbox(A)) / "spec.json").write_bytes(damage)
    again = SandboxStore(layout)
    (complaint,) = again.load_all()
    assert "quarantine" in complaint
    assert [spec.id for spec, _ in again.list()] == [B]
    assert (Path(layout.quarantine) / f"sandbox-{A}" / "spec.json").read_bytes() == damage


def test_a_record_of_a_later_version_is_set_aside(layout: Layout) -> None:
    store = SandboxStore(layout)
    store.create(dataclasses.replace(sandbox(A), version=2), SandboxStatus())
    assert "record version 2" in SandboxStore(layout).load_all()[0]


@given(st.binary())
def test_bytes_survive(env: bytes) -> None:
    spec = container(env)
    assert records.decode(records.encode(spec), ContainerSpec, "x") == spec


def test_records_of_version_1_are_read_for_ever() -> None:
    assert records.load(str(GOLDEN / "container-spec-1.json"), ContainerSpec) == container()
    assert records.load(str(GOLDEN / "sandbox-spec-1.json"), SandboxSpec) == sandbox(A)


def test_containers_are_named_by_sandbox_and_metadata(layout: Layout) -> None:
    store = ContainerStore(layout)
    store.create(container(), ContainerStatus())
    assert store.by_name((B, "c", 0)) == A
