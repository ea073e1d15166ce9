import os

from shim.kernel import proc


def test_a_name_with_parentheses_and_spaces_does_not_shift_the_fields() -> None:
    assert proc.parse_stat("17 (a) b) (c) S 1 17 17 0")[:3] == ["S", "1", "17"]


def test_escapes_in_mountinfo() -> None:
    line = "36 35 98:0 /a\\040b /mnt\\011x rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue\n"
    info = proc.parse_mountinfo_line(line)
    assert (info.root, info.mount_point) == ("/a b", "/mnt\tx")
    assert info.optional == ("shared:7", "master:1")
    assert (info.fstype, info.super_options) == ("ext3", ("rw", "errors=continue"))


def test_start_time_is_the_same_each_time() -> None:
    assert proc.start_time(os.getpid()) == proc.start_time(os.getpid()) > 0


def test_a_running_process_has_no_exit_status() -> None:
    assert proc.exit_status_of_zombie(os.getpid()) is None


def test_a_zombie_tells_its_exit_status() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert proc.exit_status_of_zombie(pid) == 7 << 8
    os.waitpid(pid, 0)
