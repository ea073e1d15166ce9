"""The root file system of a container: what is mounted, what is there, what may be changed."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.kernel import mount, proc
from shim.model.container import Device
from shim.model.mount import Propagation, Volume
from shim.model.security import ContainerSecurity, User

pytestmark = pytest.mark.root

PRIVILEGED = ContainerSecurity(privileged=True)


def mounts(text: str) -> dict[str, tuple[str, set[str]]]:
    """Return mount point to (type, options) of a /proc/mounts."""
    return {line.split()[1]: (line.split()[2], set(line.split()[3].split(","))) for line in text.splitlines()}


async def test_the_mounts_are_those_of_every_runtime(bed: Any) -> None:
    found = mounts(await bed.output(await bed.sandbox(), "cat /proc/mounts"))
    assert found["/"][0] == "overlay"
    kinds = {path: kind for path, (kind, _) in found.items()}
    for path, kind in {
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/mqueue": "mqueue",
        "/dev/shm": "tmpfs",
        "/sys": "sysfs",
    }.items():
        assert kinds[path] == kind
    assert "ro" in found["/sys"][1]
    assert {"nosuid", "nodev", "noexec", "rw"} <= found["/proc"][1]
    assert {"nosuid", "mode=755", "size=65536k"} <= found["/dev"][1]
    assert "size=65536k" in found["/dev/shm"][1]
    cgroups = [options for path, (_, options) in found.items() if path.startswith("/sys/fs/cgroup/")]
    assert all("ro" in options for options in cgroups)
    assert not [path for path in found if str(bed.directory) in path], "a host path is seen"


async def test_the_default_devices_and_links(bed: Any) -> None:
    script = """
        for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done
        for l in fd stdin stdout stderr ptmx core; do readlink /dev/$l; done
        echo gone >/dev/null; echo through >/dev/stdout"""
    lines = (await bed.output(await bed.sandbox(), script)).splitlines()
    assert lines == [
        "/dev/null character special file 1:3 666",
        "/dev/zero character special file 1:5 666",
        "/dev/full character special file 1:7 666",
        "/dev/random character special file 1:8 666",
        "/dev/urandom character special file 1:9 666",
        "/dev/tty character special file 5:0 666",
        *(
            "/proc/self/fd",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            "/proc/self/fd/2",
            "pts/ptmx",
            "/proc/kcore",
        ),
        "through",
    ]


async def test_the_cgroup_is_the_containers_own_and_cannot_be_changed(bed: Any) -> None:
    script = """
        cd /sys/fs/cgroup; for d in . memory; do [ -d $d ] && mkdir $d/mine; done
        cat memory/cgroup.procs cgroup.procs 2>/dev/null"""
    lines = (await bed.output(await bed.sandbox(), script)).splitlines()
    assert "".join(lines).count("Read-only file system") == len(lines) - 1
    assert "1" in lines


async def test_files_of_the_pod_are_shared_and_writable(bed: Any) -> None:
    sandbox = await bed.sandbox()
    text = await bed.output(sandbox, "cat /etc/hostname /etc/hosts; echo '10.0.0.1 more' >>/etc/hosts")
    assert text.splitlines()[0] == "inside"
    assert "localhost" in text
    assert "10.0.0.1 more" in await bed.output(sandbox, "cat /etc/hosts")


async def test_a_volume_takes_the_place_of_a_file_of_the_pod(bed: Any) -> None:
    own = bed.directory / "own-hosts"
    own.write_text("own\n")
    volumes = (Volume("/etc/hosts", str(own)),)
    assert await bed.output(await bed.sandbox(), "cat /etc/hosts", volumes=volumes) == "own\n"


async def test_shared_memory_is_the_pods(bed: Any) -> None:
    sandbox, other = await bed.sandbox(), await bed.sandbox()
    await bed.output(sandbox, "echo note >/dev/shm/note")
    assert await bed.output(sandbox, "cat /dev/shm/note; stat -c %a /dev/shm") == "note\n1777\n"
    assert await bed.output(other, "ls /dev/shm") == ""


async def test_masked_and_readonly_paths_are_the_usual_ones_if_none_are_given(bed: Any) -> None:
    script = "cat /proc/keys; ls /sys/firmware; echo 1 >/proc/sys/kernel/panic"
    text = await bed.output(await bed.sandbox(), script)
    assert text == "sh: can't create /proc/sys/kernel/panic: Read-only file system\n"


async def test_given_masked_paths_replace_the_usual_ones(bed: Any) -> None:
    security = ContainerSecurity(masked_paths=("/etc/secret", "/nowhere"), readonly_paths=("/tmp",))
    (bed.lower / "etc/secret").write_text("secret")
    text = await bed.output(await bed.sandbox(), "cat /etc/secret; touch /tmp/x", security=security)
    assert text == "touch: /tmp/x: Read-only file system\n"


async def test_a_readonly_root_leaves_volumes_writable(bed: Any) -> None:
    volume = bed.directory / "volume"
    volume.mkdir()
    text = await bed.output(
        await bed.sandbox(),
        "touch /x; touch /etc/hosts; touch /data/x /dev/shm/x && readlink /proc/self/cwd",
        security=ContainerSecurity(readonly_rootfs=True),
        volumes=(Volume("/data", str(volume)),),
        cwd="/made/for/it",
    )
    assert text.splitlines() == [
        "touch: /x: Read-only file system",
        "touch: /etc/hosts: Read-only file system",
        "/made/for/it",
    ]


async def test_a_privileged_container_may_change_everything(bed: Any) -> None:
    found = mounts(await bed.output(await bed.sandbox(), "cat /proc/mounts", security=PRIVILEGED))
    assert "rw" in found["/sys"][1]
    assert "/proc/sys" not in found
    assert all("rw" in options for path, (_, options) in found.items() if "cgroup" in path)
    text = await bed.output(await bed.sandbox(), "ls /dev", security=PRIVILEGED)
    theirs = {name for name in os.listdir("/dev") if stat.S_ISCHR(os.lstat(f"/dev/{name}").st_mode)}
    assert theirs - {"ptmx", "console"} <= set(text.split())


async def test_volumes_lie_in_one_another_whatever_their_order(bed: Any) -> None:
    for name in ("outer", "inner"):
        (bed.directory / name).mkdir()
        (bed.directory / name / name).touch()
    volumes = (
        Volume("/data/inner/", str(bed.directory / "inner"), readonly=True),
        Volume("/data", str(bed.directory / "outer")),
    )
    script = "ls /data /data/inner; touch /data/x; touch /data/inner/x"
    text = await bed.output(await bed.sandbox(), script, volumes=volumes)
    assert text.split() == [
        *("/data:", "inner", "outer", "/data/inner:", "inner"),
        *("touch:", "/data/inner/x:", "Read-only", "file", "system"),
    ]


async def test_a_missing_host_directory_is_made(bed: Any) -> None:
    missing = bed.directory / "not/yet"
    await bed.output(await bed.sandbox(), "touch /data/x", volumes=(Volume("/data", str(missing)),))
    assert (missing / "x").exists()
    assert missing.stat().st_mode & 0o777 == 0o755


async def test_a_recursive_read_only_volume_has_no_writable_part(bed: Any) -> None:
    volume = Volume("/data", str(bed.directory / "outer"), readonly=True, recursive_read_only=True)
    (bed.directory / "outer").mkdir()
    text = await bed.output(await bed.sandbox(), "touch /data/x", volumes=(volume,))
    assert "Read-only file system" in text


@pytest.mark.parametrize("wanted", [Propagation.HOST_TO_CONTAINER, Propagation.BIDIRECTIONAL])
async def test_propagation_from_a_mount_that_does_not_share_is_refused(bed: Any, wanted: Propagation) -> None:
    private = bed.directory / "private"
    private.mkdir()
    mount.mount("private", str(private), "tmpfs")
    mount.mount(None, str(private), None, mount.MS_PRIVATE)
    try:
        with pytest.raises(FailedPrecondition, match="not a shared mount"):
            await bed.output(
                await bed.sandbox(), ":", volumes=(Volume("/v", str(private), propagation=wanted),)
            )
    finally:
        mount.umount(str(private))


async def test_mounts_travel_as_the_propagation_says(bed: Any) -> None:
    shared = bed.directory / "shared"
    shared.mkdir()
    mount.mount("shared", str(shared), "tmpfs")
    mount.mount(None, str(shared), None, mount.MS_SHARED)
    (shared / "in").mkdir()
    (shared / "out").mkdir()
    try:
        sandbox = await bed.sandbox()
        views = [
            await bed.start(
                sandbox,
                bed.spec(
                    sandbox,
                    *("sleep", "1000"),
                    volumes=(Volume("/v", str(shared), propagation=propagation),),
                    security=PRIVILEGED,
                ),
            )
            for propagation in Propagation
        ]
        mount.mount("late", str(shared / "in"), "tmpfs")
        (shared / "in/seen").touch()
        seen = [(await bed.exec(view, "ls", "/v/in"))[0] for view in views]
        assert seen == ["", "seen\n", "seen\n"]
        for view in views:
            await bed.exec(view, "mount", "-t", "tmpfs", f"by-{view.spec.id[:8]}", "/v/out")
        on_host = {info.source for info in proc.mountinfo()}
        assert [f"by-{view.spec.id[:8]}" in on_host for view in views] == [False, False, True]
    finally:
        mount.umount(str(shared / "out"), mount.MNT_DETACH)
        mount.umount(str(shared / "in"), mount.MNT_DETACH)
        mount.umount(str(shared), mount.MNT_DETACH)


async def test_a_device_of_the_node(bed: Any) -> None:
    asked = (Device("/dev/given", "/dev/zero"),)
    text = await bed.output(await bed.sandbox(), "stat -c '%F %t:%T' /dev/given", devices=asked)
    assert text == "character special file 1:5\n"
    with pytest.raises(InvalidArgument, match="is not a device"):
        await bed.output(await bed.sandbox(), ":", devices=(Device("/dev/x", "/etc/passwd"),))


async def test_a_working_directory_that_leads_out_stays_inside(bed: Any) -> None:
    (bed.lower / "way").symlink_to("../../../../../../..")
    text = await bed.output(await bed.sandbox(), "ls; readlink /proc/self/cwd", cwd="/way", user=User(7, 7))
    assert "bin" in text
    assert text.splitlines()[-1] == "/"
