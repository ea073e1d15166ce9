"""Cgroups on this kernel, whichever version it has, below a parent of the test's own."""

import dataclasses
import os
import select
import signal
from collections.abc import Iterator

import pytest

from shim.cgroups import hierarchy, oom
from shim.cgroups.driver import CgroupfsDriver
from shim.errors import FailedPrecondition, InvalidArgument, KernelError
from shim.kernel import cgroupfs, proc
from shim.model import ids
from shim.model.cgroup import ALLOW_ALL, Place
from shim.model.resources import Resources

pytestmark = pytest.mark.root

MIB = 1 << 20
PARENT = "/cri-shim-test-c"


@pytest.fixture
def found() -> hierarchy.Hierarchy:
    return hierarchy.detect(proc.mountinfo())


@pytest.fixture
def driver(found: hierarchy.Hierarchy) -> Iterator[CgroupfsDriver]:
    driver = CgroupfsDriver(found, PARENT)
    yield driver
    driver.remove_unknown(frozenset())
    assert [mount for mount in found.mounts() if os.path.exists(mount + PARENT)] == []


def spawn(place: Place, *argv: str, stdout: int = 1) -> int:
    """Start a program that enters its cgroups by itself; return once it is in them and runs."""
    reader, writer = os.pipe()  # closed by execve
    pid = os.fork()
    if pid == 0:
        try:
            for path in (*place.join.v1_tasks, os.path.join(place.join.v2_dir, "cgroup.procs")):
                with open(path, "w") as file:
                    file.write("0")
            os.dup2(stdout, 1)
            os.execvp(argv[0], argv)  # noqa: S606 - a process for the cgroup
        finally:
            os._exit(99)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return pid


def where(pid: int) -> set[str]:
    with open(f"/proc/{pid}/cgroup") as file:
        return {line.rstrip("\n").split(":", 2)[2] for line in file}


def limit_of(driver: CgroupfsDriver, path: str) -> int:
    memory = driver.usage(path).memory
    assert memory is not None
    return memory.limit_bytes


def test_a_process_enters_every_hierarchy_is_killed_and_leaves_nothing(
    driver: CgroupfsDriver, found: hierarchy.Hierarchy
) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    place = driver.create(path, Resources(cpu_shares=512, memory_limit_bytes=64 * MIB))
    reader, writer = os.pipe()
    pid = spawn(place, "sh", "-c", "echo ready; exec sleep 60", stdout=writer)
    os.close(writer)
    assert os.read(reader, 16) == b"ready\n"
    os.close(reader)
    assert where(pid) == {path}
    assert limit_of(driver, path) == 64 * MIB
    assert driver.cpu(path).usage_ns > 0
    assert driver.processes(path) == [pid]
    driver.kill(path)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    driver.remove(path)
    driver.remove(path)
    driver.kill(path)
    assert [mount for mount in found.mounts() if os.path.exists(mount + path)] == []
    with pytest.raises(KernelError):
        driver.cpu(path)


def test_processes_of_threaded_cgroups_are_counted(
    driver: CgroupfsDriver, found: hierarchy.Hierarchy
) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    pid = spawn(driver.create(path, Resources()), "sleep", "60")
    inner = f"{found.unified}{path}/inner"
    os.mkdir(inner)
    try:
        cgroupfs.write(f"{inner}/cgroup.type", "threaded")
        cgroupfs.write(f"{inner}/cgroup.threads", str(pid))
        with pytest.raises(KernelError, match=r"cgroup\.procs"):
            cgroupfs.read(f"{inner}/cgroup.procs")
        assert driver.processes(path) == [pid]
    finally:
        driver.kill(path)
        os.waitpid(pid, 0)
        driver.remove(path)


def test_a_cgroup_that_is_made_again_is_not_taken_for_the_one_before(driver: CgroupfsDriver) -> None:
    path = driver.path(PARENT, ids.new_id())
    for limit in (64 * MIB, 32 * MIB):
        place = driver.create(path, Resources(memory_limit_bytes=limit), ALLOW_ALL)
        for _ in range(2):
            assert limit_of(driver, path) == limit
            assert driver.processes(path) == []
        pid = spawn(place, "sleep", "60")
        assert driver.processes(path) == [pid]
        driver.kill(path)
        os.waitpid(pid, 0)
        driver.remove(path)
        assert driver.processes(path) == []
        with pytest.raises(KernelError):
            driver.usage(path)


def test_what_was_opened_to_be_read_is_closed(driver: CgroupfsDriver) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    path = driver.path(PARENT, ids.new_id())
    driver.create(path, Resources(), ALLOW_ALL)
    driver.cpu(path)
    assert descriptors() == before
    for close in (lambda: driver.keep_open(()), driver.close, lambda: driver.remove(path)):
        driver.details(path)
        assert descriptors() > before
        close()
        assert descriptors() == before


def test_limits_grow_and_shrink(driver: CgroupfsDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    driver.create(path, Resources(memory_limit_bytes=64 * MIB, memory_swap_limit_bytes=64 * MIB))
    for size in (128 * MIB, 32 * MIB, 96 * MIB):
        driver.update(path, Resources(memory_limit_bytes=size, memory_swap_limit_bytes=size))
        assert limit_of(driver, path) == size


def test_an_exec_is_killed_without_its_container(driver: CgroupfsDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    main = spawn(driver.create(path, Resources()), "sleep", "60")
    place = driver.create_exec(path, 1)
    assert place.path == f"{path}/exec-1.mount"
    child = spawn(place, "sleep", "60")
    assert place.path in where(child)
    assert not driver.remove_exec(path, 1)
    with open(os.path.join(place.kill_dir, "cgroup.kill"), "w") as file:
        file.write("1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert os.waitpid(main, os.WNOHANG) == (0, 0)
    driver.kill(path)
    assert os.waitstatus_to_exitcode(os.waitpid(main, 0)[1]) == -signal.SIGKILL
    assert driver.remove_exec(path, 1)


def test_the_oom_killer_is_noticed(driver: CgroupfsDriver) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    limits = Resources(memory_limit_bytes=16 * MIB, memory_swap_limit_bytes=16 * MIB)
    place = driver.create(path, limits, ALLOW_ALL)
    fds = driver.oom_watch(path)
    pid = spawn(place, "tail", "/dev/zero")
    os.waitpid(pid, 0)
    try:
        notice = fds.get("oom_eventfd", fds.get("memory_events", -1))
        poll = select.poll()
        poll.register(notice, select.POLLIN if "oom_eventfd" in fds else select.POLLPRI)
        assert poll.poll(5000)
        counts = os.pread(fds.get("oom_control", notice), 4096, 0).decode()
        assert oom.parse_kills(counts) == 1
    finally:
        for fd in fds.values():
            os.close(fd)


def test_a_parent_that_was_there_stays(driver: CgroupfsDriver, found: hierarchy.Hierarchy) -> None:
    kubelets = f"{PARENT}-kubelet"
    for mount in found.mounts():
        os.mkdir(mount + kubelets)
    try:
        path = driver.path(driver.parent(f"{kubelets}/pod"), ids.new_id())
        if "cpuset" in found.v1:  # the kubelet gives its cgroups their cpusets
            for name in ("cpuset.cpus", "cpuset.mems"):
                with open(f"{found.v1['cpuset']}/{name}") as source:
                    value = source.read()
                with open(f"{found.v1['cpuset']}{kubelets}/{name}", "w") as target:
                    target.write(value)
        driver.create(path, Resources())
        driver.remove(path)
        assert all(os.path.isdir(mount + kubelets) for mount in found.mounts())
        assert not any(os.path.exists(f"{mount}{kubelets}/pod") for mount in found.mounts())
    finally:
        for mount in found.mounts():
            os.rmdir(mount + kubelets)


def test_a_refused_limit_leaves_nothing(driver: CgroupfsDriver, found: hierarchy.Hierarchy) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    with pytest.raises(InvalidArgument, match=r"cpuset\.cpus"):
        driver.create(path, Resources(cpuset_cpus="4000"))
    assert not any(os.path.exists(mount + path) for mount in found.mounts())


def values(found: hierarchy.Hierarchy, path: str) -> dict[str, str]:
    """Return what all limits of a cgroup are."""
    names = {
        "cpu": ("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.weight", "cpu.max"),
        "cpuset": ("cpuset.cpus", "cpuset.mems"),
        "memory": (
            *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max"),
            "memory.high",
        ),
    }
    read = {}
    for controller, files in names.items():
        directory = found.directory(controller, path)
        for name in files:
            if directory is not None and os.path.exists(f"{directory}/{name}"):
                read[name] = cgroupfs.read(f"{directory}/{name}")
    return read


@pytest.mark.parametrize(
    "first",
    [
        Resources(),
        Resources(
            cpu_shares=512,
            cpu_period_us=50_000,
            cpu_quota_us=25_000,
            memory_limit_bytes=64 * MIB,
            memory_swap_limit_bytes=96 * MIB,
            cpuset_cpus="0",
        ),
    ],
)
@pytest.mark.parametrize("memory", [32 * MIB, 128 * MIB])
def test_a_refused_update_changes_nothing(
    driver: CgroupfsDriver, found: hierarchy.Hierarchy, first: Resources, memory: int
) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    driver.create(path, first)
    before = values(found, path)
    more = Resources(
        cpu_shares=77,
        cpu_period_us=20_000,
        cpu_quota_us=10_000,
        memory_limit_bytes=memory,
        memory_swap_limit_bytes=memory,
    )
    # What comes last is refused, and what comes between the others.
    for bad in ({"cpuset_mems": "900"}, {"cpuset_cpus": "4000"}):
        with pytest.raises(InvalidArgument):
            driver.update(path, dataclasses.replace(more, **bad))
        assert values(found, path) == before
    driver.update(path, more)
    assert values(found, path) != before


def test_a_limit_below_what_is_in_use_is_said_so(driver: CgroupfsDriver, found: hierarchy.Hierarchy) -> None:
    if not found.v1:
        pytest.skip("version 2 takes such a limit, and kills")
    path = driver.path(driver.parent(""), ids.new_id())
    place = driver.create(path, Resources(memory_limit_bytes=256 * MIB), ALLOW_ALL)
    script = "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ready; sleep 60; echo"
    reader, writer = os.pipe()
    pid = spawn(place, "sh", "-c", script, stdout=writer)
    os.close(writer)
    assert os.read(reader, 16) == b"ready\n"
    before = values(found, path)
    try:
        with pytest.raises(FailedPrecondition, match="in use"):
            driver.update(path, Resources(cpu_shares=99, memory_limit_bytes=MIB))
        assert values(found, path) == before
    finally:
        os.close(reader)
        driver.kill(path)
        os.waitpid(pid, 0)


def test_only_what_is_named_by_an_id_is_touched(driver: CgroupfsDriver) -> None:
    for path in ("/", "/kubepods", f"{PARENT}/x", "/a/../" + "0" * 64):
        with pytest.raises(InvalidArgument):
            driver.kill(path)
        with pytest.raises(InvalidArgument):
            driver.remove(path)


def test_without_cgroup_kill_each_process_is_killed(
    driver: CgroupfsDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = driver.path(driver.parent(""), ids.new_id())
    pids = [spawn(driver.create(path, Resources()), "sleep", "60")]
    pids.append(spawn(driver.create_exec(path, 1), "sleep", "60"))
    assert all(any(each.startswith(path) for each in where(pid)) for pid in pids)
    write = cgroupfs.write

    def older_kernel(file: str, value: str) -> None:
        write(file.replace("cgroup.kill", "cgroup.no_such_file"), value)

    monkeypatch.setattr(cgroupfs, "write", older_kernel)
    driver.kill(path)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [-signal.SIGKILL] * 2
