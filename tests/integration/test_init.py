"""The init child on a real kernel: what a program sees of its root, its namespaces and its rights."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shim.errors import ExecFailed, KernelError
from shim.kernel import mount, process, unix
from shim.runtime import init, wire
from shim.runtime.plan import Plan, encode_plan
from shim.runtime.steps import Step
from shim.runtime.steps_mounts import (
    DetachFromHost,
    MakeDevices,
    MountNew,
    MountOverlay,
    PivotRoot,
    ProtectPaths,
    RootReadonly,
)
from shim.runtime.steps_namespaces import SetHostname, Unshare
from shim.runtime.steps_process import Defaults, EnterDirectory, Execute, Identity, Streams
from shim.runtime.steps_volumes import AttachVolume, OpenVolume

pytestmark = pytest.mark.root

BUSYBOX = Path("/bin/busybox")
NULL = ("/dev/null", "c", 1, 3, 0o666, 0, 0)


@dataclass
class Result:
    """What came of a plan: the program's output and exit code, and the child's own messages."""

    output: str
    code: int
    messages: list[dict[str, object]]


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[MountOverlay]:
    lower = tmp_path / "lower"
    for name in ("bin", "proc", "dev", "tmp"):
        (lower / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, lower / "bin/busybox")
    for applet in ("sh", "cat", "id", "ls", "mount", "readlink", "touch"):
        os.link(lower / "bin/busybox", lower / "bin" / applet)
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()
    yield MountOverlay((str(lower),), str(tmp_path / "upper"), str(tmp_path / "work"))
    mounted = Path("/proc/self/mountinfo").read_text()
    assert str(tmp_path) not in mounted, "the host sees a mount of the container"


def close_all_but(keep: set[int]) -> None:
    """Close what the test runner, or whoever started it, has open: the supervisor does the same."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)


def carry_out(plan: Plan) -> Result:
    """Fork as the supervisor does, and read everything before waiting."""
    sync, sync_child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    announce, announce_child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    stdin = os.open("/dev/null", os.O_RDONLY)
    process.set_child_subreaper()
    pid, pidfd = process.clone3(0)
    if pid == 0:
        fds = {"sync": sync_child.fileno(), "announce": announce_child.fileno()}
        close_all_but({*fds.values(), stdin, writer})
        init.run(encode_plan(plan), fds | {"stdin": stdin, "stdout": writer, "stderr": writer})
    for fd in (pidfd, writer, stdin):
        os.close(fd)
    sync_child.close()
    announce_child.close()
    with open(reader, "rb") as file:
        output = file.read().decode()
    messages = []
    with sync:
        while packet := unix.recv_message(sync)[0]:
            messages.append(wire.decode(packet))
    first = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with announce:
        data, fds_up = unix.recv_message(announce)
    if not data:
        return Result(output, first, messages)
    os.close(fds_up[0])
    (second,) = init.ANNOUNCEMENT.unpack(data)
    return Result(output, os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]), messages)


def plan_for(
    rootfs: MountOverlay,
    *argv: str,
    stage1: tuple[Step, ...] = (),
    attach: tuple[Step, ...] = (),
    stage2: tuple[Step, ...] = (),
    identity: Identity | None = None,
    env: tuple[str, ...] = ("PATH=/bin",),
) -> Plan:
    return Plan(
        "container",
        (
            *stage1,
            Unshare(("mnt", "uts", "ipc", "pid")),
            DetachFromHost(),
            rootfs,
            SetHostname("inside"),
            MakeDevices((NULL,), (("/dev/stdout", "/proc/self/fd/1"),)),
            *attach,
            PivotRoot(),
        ),
        (
            MountNew("proc", "proc", "/proc", mount.MOUNT_ATTR_NOSUID, ()),
            *stage2,
            Streams(0, 0),
            Defaults(((7, 1024, 4096),), "test"),
            EnterDirectory("/"),
            identity or Identity(0, 0, (), 0, 0, True, "", 0),
            Execute(argv, env),
        ),
    )


def test_a_program_runs_as_process_1_in_its_own_root(rootfs: MountOverlay) -> None:
    result = carry_out(plan_for(rootfs, "sh", "-c", "echo $$; cat /proc/sys/kernel/hostname; ls /; exit 7"))
    assert result.output.split() == ["1", "inside", "bin", "dev", "proc", "tmp"]
    assert (result.code, result.messages) == (7, [])


def test_what_it_writes_lies_in_the_upper_directory(rootfs: MountOverlay) -> None:
    assert carry_out(plan_for(rootfs, "touch", "/mine")).code == 0
    assert (Path(rootfs.upper) / "mine").exists()
    assert not (Path(rootfs.lowers[0]) / "mine").exists()


def test_no_descriptor_but_the_first_three(rootfs: MountOverlay) -> None:
    # The fourth is the directory that ls itself reads.
    assert carry_out(plan_for(rootfs, "ls", "/proc/self/fd")).output.split() == ["0", "1", "2", "3"]


def test_stdout_can_be_opened_again_by_an_ordinary_user(rootfs: MountOverlay) -> None:
    plan = plan_for(
        rootfs,
        "sh",
        "-c",
        "id -u; id -G; echo again >/dev/stdout",
        identity=Identity(1000, 1000, (5, 6), 0, 0, False, "", 0),
    )
    plan = Plan(
        plan.kind,
        plan.stage1,
        tuple(Streams(1000, 1000) if isinstance(s, Streams) else s for s in plan.stage2),
    )
    assert carry_out(plan).output.split("\n") == ["1000", "1000 5 6", "again", ""]


def test_capabilities_are_exactly_those_of_the_plan(rootfs: MountOverlay) -> None:
    plan = plan_for(rootfs, "cat", "/proc/self/status", identity=Identity(0, 0, (), 0b1011, 0, True, "", 0))
    status = dict(line.split(":\t") for line in carry_out(plan).output.splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {f"{0b1011:016x}"}
    assert {status[name] for name in ("CapInh", "CapAmb")} == {f"{0:016x}"}
    assert status["NoNewPrivs"] == "1"


def test_the_environment_is_the_plans_and_may_be_no_utf8(rootfs: MountOverlay) -> None:
    plan = plan_for(
        rootfs,
        "sh",
        "-c",
        '[ "$X" = "$(printf \'\\377\')" ] && echo same',
        env=("PATH=/bin", os.fsdecode(b"X=\xff")),
    )
    assert carry_out(plan).output == "same\n"


def test_a_missing_program_is_127_and_named(rootfs: MountOverlay) -> None:
    result = carry_out(plan_for(rootfs, "nope"))
    error = wire.decode_error(result.messages[0])
    assert isinstance(error, ExecFailed)
    assert (error.exit_code, result.code) == (127, 127)
    assert str(error) == 'exec: "nope": executable file not found in $PATH'


def test_a_program_without_permission_is_126(rootfs: MountOverlay) -> None:
    script = Path(rootfs.lowers[0]) / "bin/script"
    script.write_text("#!/bin/sh\n")
    result = carry_out(plan_for(rootfs, "/bin/script"))
    assert (result.code, str(wire.decode_error(result.messages[0]))) == (
        126,
        'exec: "/bin/script": permission denied',
    )


def test_volumes_are_attached_read_only_or_not(rootfs: MountOverlay, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("content")
    opened = (
        OpenVolume("v0", str(volume), True, False, 0),
        OpenVolume("v1", str(volume / "file"), False, False, 0),
    )
    attached = (AttachVolume("v0", "/a/b"), AttachVolume("v1", "/etc/one"))
    script = "cat /a/b/file /etc/one; echo x >/a/b/file; echo changed >/etc/one"
    result = carry_out(plan_for(rootfs, "sh", "-c", script, stage1=opened, attach=attached))
    assert result.output.startswith("contentcontent")
    assert "Read-only file system" in result.output
    assert (volume / "file").read_text() == "changed\n"


def test_a_mount_point_that_is_a_link_stays_inside(rootfs: MountOverlay, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (Path(rootfs.lowers[0]) / "trap").symlink_to(outside)
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "seen").touch()
    plan = plan_for(
        rootfs,
        "ls",
        str(outside),
        stage1=(OpenVolume("v", str(volume), False, False, 0),),
        attach=(AttachVolume("v", "/trap"),),
    )
    assert carry_out(plan).output == "seen\n"
    assert list(outside.iterdir()) == []


def test_masked_and_read_only_paths(rootfs: MountOverlay) -> None:
    script = "cat /proc/keys; ls /proc/bus; echo x >/proc/sys/kernel/domainname"
    protect = ProtectPaths(("/proc/keys", "/proc/bus", "/proc/nowhere"), ("/proc/sys",))
    result = carry_out(plan_for(rootfs, "sh", "-c", script, stage2=(protect,)))
    assert result.output == "sh: can't create /proc/sys/kernel/domainname: Read-only file system\n"


def test_a_null_device_that_is_none_is_not_used_for_masking(rootfs: MountOverlay) -> None:
    plan = plan_for(rootfs, "cat", "/proc/keys", stage2=(ProtectPaths(("/proc/keys",), ()),))
    trap = MakeDevices((), (("/dev/null", "/proc/sys/kernel/core_pattern"),))
    plan = Plan(plan.kind, (*plan.stage1[:-1], trap, plan.stage1[-1]), plan.stage2)
    (message,) = carry_out(plan).messages
    assert "not the null device" in str(wire.decode_error(message))


def test_a_read_only_root(rootfs: MountOverlay) -> None:
    result = carry_out(plan_for(rootfs, "touch", "/mine", stage2=(RootReadonly(),)))
    assert "Read-only file system" in result.output


def test_a_working_directory_is_made(rootfs: MountOverlay) -> None:
    plan = plan_for(rootfs, "readlink", "/proc/self/cwd")
    stage2 = tuple(EnterDirectory("/deep/er") if isinstance(s, EnterDirectory) else s for s in plan.stage2)
    assert carry_out(Plan(plan.kind, plan.stage1, stage2)).output == "/deep/er\n"


def test_an_error_of_the_first_stage_names_what_was_being_done(rootfs: MountOverlay) -> None:
    missing = OpenVolume("v", "/proc/nonexistent/volume", False, False, 0)
    result = carry_out(plan_for(rootfs, "true", stage1=(missing,)))
    error = wire.decode_error(result.messages[0])
    assert isinstance(error, KernelError)
    assert "/proc/nonexistent/volume" in str(error)
    assert result.code == 128


def test_the_null_device_of_the_container_is_one(rootfs: MountOverlay) -> None:
    carry_out(plan_for(rootfs, "sh", "-c", "true"))
    made = Path(rootfs.upper) / "dev/null"
    with contextlib.suppress(FileNotFoundError):
        assert stat.S_ISCHR(made.stat().st_mode)
