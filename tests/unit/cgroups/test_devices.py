"""What happens where the node cannot limit devices; that it does where it can is an integration test."""

import errno
import logging

import pytest

from shim.cgroups import devices
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import FailedPrecondition, KernelError
from shim.kernel import bpf, proc
from shim.model.cgroup import ALLOW_ALL

ON_V2 = Hierarchy({}, "/nowhere")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_program: bytes) -> int:
        raise KernelError("bpf PROG_LOAD", errno.EPERM)

    monkeypatch.setattr(bpf, "load_device_program", refuse)


@pytest.mark.usefixtures("refused")
def test_what_is_lacking_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "in_user_namespace", lambda: False)
    with pytest.raises(FailedPrecondition, match=r"'/c'.*CONFIG_CGROUP_BPF"):
        devices.DeviceGuard(ON_V2).limit("/c", ())


@pytest.mark.usefixtures("refused")
def test_in_a_user_namespace_it_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(proc, "in_user_namespace", lambda: True)
    guard = devices.DeviceGuard(ON_V2)
    for _ in range(2):
        guard.limit("/c", ())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.usefixtures("refused")
def test_a_privileged_container_needs_nothing() -> None:
    devices.DeviceGuard(ON_V2).limit("/c", ALLOW_ALL)


def test_a_missing_cgroup_is_no_lack_of_the_node() -> None:
    with pytest.raises(KernelError) as caught:
        devices.DeviceGuard(Hierarchy({"devices": "/nowhere"}, "")).limit("/c", ())
    assert caught.value.errno == errno.ENOENT
