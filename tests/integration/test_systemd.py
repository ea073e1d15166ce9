"""Cgroups that systemd makes, where it is the first process: hack/vm --systemd boots it."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.cgroups import hierarchy, select, systemd
from shim.cgroups.systemd import SystemdDriver
from shim.errors import FailedPrecondition, InvalidArgument
from shim.kernel import proc
from shim.model import ids
from shim.model.cgroup import DeviceRule, Place
from shim.model.resources import Resources

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not systemd.is_init(), reason="systemd is not the first process here"),
]

MIB = 1 << 20
ROOT = Path("/sys/fs/cgroup")
PODS = "/crishimtest.slice/crishimtest-pod1.slice"


@pytest.fixture
def driver() -> Iterator[SystemdDriver]:
    driver = select.driver("auto", hierarchy.detect(proc.mountinfo()), "/crishimtest/own")
    assert isinstance(driver, SystemdDriver)
    yield driver
    driver.remove_unknown(frozenset())
    driver.close()
    systemctl("stop", "crishimtest.slice")
    assert not (ROOT / "crishimtest.slice").exists()


def systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True).stdout


def spawn(place: Place, *argv: str) -> subprocess.Popen[bytes]:
    """Start a program in a cgroup, without a moment outside of it."""
    script = 'echo 0 >"$0/cgroup.procs" && exec "$@"'
    process = subprocess.Popen(["sh", "-c", script, place.join.v2_dir, *argv])
    until(lambda: str(process.pid) in (Path(place.join.v2_dir) / "cgroup.procs").read_text().split())
    return process


def until(true: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def limit_of(driver: SystemdDriver, path: str) -> int:
    memory = driver.usage(path).memory
    assert memory is not None
    return memory.limit_bytes


def test_a_process_lives_in_a_scope_that_ends_with_it(driver: SystemdDriver) -> None:
    path = driver.path(driver.parent("crishimtest-pod1.slice"), id_ := ids.new_id())
    assert path == f"{PODS}/cri-shim-{id_}.scope"
    place = driver.create(path, Resources(memory_limit_bytes=64 * MIB))
    process = spawn(place, "sleep", "600")
    driver.settle(path)
    driver.settle(path)
    assert (ROOT / path[1:] / "cgroup.procs").read_text().split() == [str(process.pid)]
    assert path[1:] in Path(f"/proc/{process.pid}/cgroup").read_text()
    shown = systemctl("show", f"cri-shim-{id_}.scope")
    assert {"ActiveState=active", "Slice=crishimtest-pod1.slice", "Delegate=yes", "TasksMax=infinity"} <= set(
        shown.splitlines()
    )
    assert limit_of(driver, path) == 64 * MIB
    driver.kill(path)
    process.wait()
    until(lambda: not (ROOT / path[1:]).exists())
    until(lambda: "LoadState=not-found" in systemctl("show", f"cri-shim-{id_}.scope"))
    driver.remove(path)


def test_a_daemon_reload_changes_no_limit(driver: SystemdDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    assert path.startswith("/crishimtest.slice/crishimtest-own.slice/cri-shim-")
    resources = Resources(
        cpu_shares=512,
        cpu_quota_us=30_000,
        cpu_period_us=100_000,
        cpuset_cpus="0",
        memory_limit_bytes=64 * MIB,
        memory_swap_limit_bytes=64 * MIB,
        unified={"memory.oom.group": "1", "pids.max": "50", "memory.high": "48M"},
    )
    place = driver.create(path, resources, (DeviceRule(True, "c", 1, 3),))
    process = spawn(place, "sleep", "600")
    driver.settle(path)
    script = (
        "until [ -e /run/devices ]; do sleep 0.1; done\n"
        "(: </dev/null) && ! (: </dev/zero) && echo limited >/run/devices"
    )
    inside = spawn(place, "sh", "-c", script)
    directory = ROOT / path[1:]

    expected = {
        "cpu.weight": "20",
        "cpu.max": "30000 100000",
        "cpuset.cpus": "0",
        "memory.max": str(64 * MIB),
        "memory.high": str(48 * MIB),
        "memory.swap.max": "0",
        "pids.max": "50",
        "memory.oom.group": "1",
    }

    def limits() -> dict[str, str]:
        return {name: (directory / name).read_text().strip() for name in expected}

    try:
        assert limits() == expected
        systemctl("daemon-reload")
        if driver._version() < 253:
            expected["memory.oom.group"] = "0"  # nothing can be done about it
        assert limits() == expected
        driver.update(
            path, Resources(memory_limit_bytes=96 * MIB, cpu_quota_us=50_000, cpu_period_us=100_000)
        )
        expected |= {"memory.max": str(96 * MIB), "cpu.max": "50000 100000"}
        assert limits() == expected
        systemctl("daemon-reload")
        assert limits() == expected
        Path("/run/devices").touch()
        assert inside.wait() == 0
        assert Path("/run/devices").read_text() == "limited\n"
    finally:
        Path("/run/devices").unlink(missing_ok=True)
        driver.kill(path)
        process.wait()
        inside.wait()
        driver.remove(path)
    assert not directory.exists()


def test_execs_have_cgroups_below_the_scope(driver: SystemdDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    main = spawn(driver.create(path, Resources()), "sleep", "600")
    driver.settle(path)
    place = driver.create_exec(path, 1)
    child = spawn(place, "sleep", "600")
    systemctl("daemon-reload")
    assert "exec-1.mount" in Path(f"/proc/{child.pid}/cgroup").read_text()
    (Path(place.kill_dir) / "cgroup.kill").write_text("1")
    child.wait()
    assert main.poll() is None
    driver.kill(path)
    main.wait()
    driver.remove(path)
    assert not (ROOT / path[1:]).exists()


def test_a_scope_without_its_process_goes(driver: SystemdDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    driver.create(path, Resources())
    driver.remove(path)
    assert not (ROOT / path[1:]).exists()
    driver.create(path, Resources())
    driver.settle(path)
    until(lambda: not (ROOT / path[1:]).exists())


def test_a_daemon_that_dies_leaves_no_scope(driver: SystemdDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            SystemdDriver(hierarchy.detect(proc.mountinfo()), "/crishimtest/own").create(path, Resources())
            os.write(writer, b"made" if (ROOT / path[1:]).exists() else b"nothing")
        finally:
            os.kill(os.getpid(), 9)
    os.close(writer)
    with open(reader, "rb") as told:
        assert told.read() == b"made"
    os.waitpid(pid, 0)
    until(lambda: not (ROOT / path[1:]).exists())


def test_a_refused_limit_leaves_nothing(driver: SystemdDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    for wrong in (Resources(cpuset_cpus="4000"), Resources(unified={"memory.high": "some"})):
        with pytest.raises(InvalidArgument):
            driver.create(path, wrong)
        assert not (ROOT / path[1:]).exists()


def test_a_parent_of_the_other_driver_is_refused(driver: SystemdDriver) -> None:
    with pytest.raises(InvalidArgument, match="the driver is systemd"):
        driver.parent("/kubepods/burstable/pod1")
    with pytest.raises(FailedPrecondition, match="made with the driver cgroupfs"):
        driver.create(driver.path("/kubepods/burstable/pod1", ids.new_id()), Resources())
