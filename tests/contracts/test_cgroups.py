"""What every ``Cgroups`` does: the driver on this kernel, and the stand-in that unit tests use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeCgroups

from shim.cgroups.driver import CgroupfsDriver
from shim.cgroups.hierarchy import detect
from shim.errors import InvalidArgument, KernelError
from shim.kernel import proc
from shim.model import ids
from shim.model.cgroup import ALLOW_ALL
from shim.model.resources import Resources
from shim.services.collaborators import Cgroups

PARENT = f"/cri-shim-test-contract-{os.getpid()}"


class NobodyToKill:
    def kill_cgroup(self, path: str) -> None:
        """There is no process in the cgroups of these tests."""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def cgroups(request: Any) -> Iterator[Cgroups]:
    if request.param == "fake":
        fake = FakeCgroups()
        fake.world = NobodyToKill()
        yield fake
        return
    real = CgroupfsDriver(detect(proc.mountinfo()), PARENT)
    yield real
    real.remove_unknown(frozenset())


def test_a_pod_without_a_parent_gets_one_of_ours(cgroups: Cgroups) -> None:
    assert cgroups.parent("").startswith("/cri-shim")
    assert cgroups.parent("/kubepods/pod1/") == "/kubepods/pod1"


@pytest.mark.parametrize("asked", ["/a/../b", "../x", "/a\0b", "/" + "x" * 300])
def test_a_parent_that_is_no_place_is_refused(cgroups: Cgroups, asked: str) -> None:
    with pytest.raises(InvalidArgument):
        cgroups.parent(asked)


def test_a_container_lies_below_its_parent(cgroups: Cgroups) -> None:
    id_ = ids.new_id()
    assert cgroups.path("/kubepods/pod1", id_) == f"/kubepods/pod1/{id_}"


def test_what_was_made_can_be_read_until_it_is_removed(cgroups: Cgroups) -> None:
    path = cgroups.path(cgroups.parent(""), ids.new_id())
    place = cgroups.create(path, Resources(memory_limit_bytes=64 << 20), ALLOW_ALL)
    assert place.path == path
    assert cgroups.cpu(path).timestamp_ns > 0
    usage = cgroups.usage(path)
    assert usage.memory is not None
    assert usage.memory.timestamp_ns > 0
    assert cgroups.details(path).usage.cpu.usage_ns >= usage.cpu.usage_ns
    cgroups.update(path, Resources(memory_limit_bytes=32 << 20))
    cgroups.kill(path)
    cgroups.remove(path)
    cgroups.remove(path)
    for read in (cgroups.cpu, cgroups.usage, cgroups.details):
        with pytest.raises(KernelError):
            read(path)
    assert cgroups.processes(path) == []


def test_an_exec_has_a_cgroup_below_its_containers(cgroups: Cgroups) -> None:
    path = cgroups.path(cgroups.parent(""), ids.new_id())
    cgroups.create(path, Resources(), ALLOW_ALL)
    place = cgroups.create_exec(path, 7)
    assert place.path.startswith(path)
    assert cgroups.remove_exec(path, 7)
    assert cgroups.remove_exec(path, 7)
    cgroups.remove(path)


def test_only_what_nobody_knows_is_removed(cgroups: Cgroups) -> None:
    known, unknown = ids.new_id(), ids.new_id()
    parent = cgroups.parent("")
    for id_ in (known, unknown):
        cgroups.create(cgroups.path(parent, id_), Resources(), ALLOW_ALL)
    cgroups.remove_unknown(frozenset({known}))
    assert cgroups.cpu(cgroups.path(parent, known)).timestamp_ns > 0
    with pytest.raises(KernelError):
        cgroups.cpu(cgroups.path(parent, unknown))
    cgroups.remove(cgroups.path(parent, known))
