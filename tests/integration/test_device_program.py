"""The program about devices on this kernel: what it says is what a process in its cgroup may do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence

import pytest

from shim.cgroups import devices, hierarchy
from shim.cgroups.devices import DeviceGuard
from shim.kernel import proc
from shim.model.cgroup import ALLOW_ALL, DeviceRule
from shim.services import device_rules

pytestmark = pytest.mark.root

NULL, ZERO, KMSG = "/dev/null", "/dev/zero", "/dev/kmsg"
ZERO_READ = DeviceRule(True, "c", 1, 5, "r")


def unified() -> str:
    return hierarchy.detect(proc.mountinfo()).unified


def lacks() -> str:
    """Why the effect cannot be seen here; empty where it can."""
    if os.geteuid() != 0 or not unified():
        return "needs root and a cgroup2 hierarchy"
    return "" if devices.takes_programs() else "this kernel takes no BPF programs"


needs_bpf = pytest.mark.skipif(bool(lacks()), reason=lacks() or "-")


@pytest.fixture
def cgroup() -> Iterator[str]:
    """The path of a cgroup below a parent of the test's own, in the version 2 hierarchy alone."""
    parent = f"/cri-shim-test-bpf-{os.getpid()}"
    for part in (parent, f"{parent}/c", f"{parent}/c/below"):
        os.mkdir(unified() + part)
    yield f"{parent}/c"
    for part in (f"{parent}/c/below", f"{parent}/c", parent):
        os.rmdir(unified() + part)


def limit(cgroup: str, rules: Sequence[DeviceRule]) -> None:
    DeviceGuard(hierarchy.Hierarchy({}, unified())).limit(cgroup, rules)


def inside(cgroup: str, do: Callable[[], object]) -> int:
    """Do something in a forked child inside a cgroup; return 0 or the errno that it got."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            with open(f"{unified()}{cgroup}/cgroup.procs", "w") as file:
                file.write("0")
            do()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def opened(path: str, flags: int) -> Callable[[], object]:
    return lambda: os.open(path, flags)


@needs_bpf
@pytest.mark.parametrize("below", ["", "/below"])
def test_what_is_not_allowed_cannot_be_opened(cgroup: str, below: str) -> None:
    limit(cgroup, (DeviceRule(True, "c", 1, 3), ZERO_READ))
    assert inside(cgroup + below, opened(NULL, os.O_RDWR)) == 0
    assert inside(cgroup + below, opened(ZERO, os.O_RDONLY)) == 0
    assert inside(cgroup + below, opened(ZERO, os.O_RDWR)) == errno.EPERM
    assert inside(cgroup + below, opened(KMSG, os.O_RDONLY)) == errno.EPERM
    os.close(os.open(KMSG, os.O_RDONLY))  # nobody else is limited


@needs_bpf
def test_a_node_can_be_made_and_not_opened(cgroup: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    node = str(tmp_path_factory.mktemp("nodes") / "node")
    device = os.stat(KMSG).st_rdev
    limit(cgroup, device_rules.DEFAULT)
    assert inside(cgroup, lambda: os.mknod(node, 0o20600, device)) == 0
    assert inside(cgroup, opened(node, os.O_RDONLY)) == errno.EPERM
    os.unlink(node)
    limit(cgroup, ())  # all programs must agree
    assert inside(cgroup, lambda: os.mknod(node, 0o20600, device)) == errno.EPERM
    assert inside(cgroup, opened(NULL, os.O_RDONLY)) == errno.EPERM


@needs_bpf
def test_where_all_is_allowed_there_is_no_program(cgroup: str) -> None:
    limit(cgroup, ALLOW_ALL)
    assert inside(cgroup, opened(KMSG, os.O_RDONLY)) == 0


@needs_bpf
def test_limits_that_change_leave_the_program(cgroup: str) -> None:
    limit(cgroup, device_rules.DEFAULT)
    for name in ("cgroup.max.depth", "cgroup.max.descendants"):  # there in every cgroup
        with open(f"{unified()}{cgroup}/{name}", "w") as file:
            file.write("5")
    assert inside(cgroup, opened(KMSG, os.O_RDONLY)) == errno.EPERM
