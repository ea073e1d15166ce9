import os

import pytest

from shim.services.denials import Denial, parse

SECCOMP = (
    "audit: type=1326 audit(1700000000.1:7): auid=4294967295 uid=0 gid=0 ses=4294967295 pid={pid} "
    'comm="mount" exe="/bin/busybox" sig=0 arch=c000003e syscall=165 compat=0 ip=0x4 code=0x50000'
)
APPARMOR = (
    'audit: type=1400 audit(1.2:3): apparmor="DENIED" operation="open" profile="cri-shim-default" '
    'name="/proc/kcore" pid=42 comm="cat" requested_mask="r" denied_mask="r" fsuid=0 ouid=0'
)


def test_a_denied_system_call_is_told_by_its_name() -> None:
    told = parse(SECCOMP.format(pid=os.getpid()))
    assert told == Denial(os.getpid(), "its seccomp profile does not allow 'mount' the system call mount")


def test_a_call_that_nobody_knows_is_told_by_its_number() -> None:
    told = parse(SECCOMP.format(pid=1).replace("syscall=165", "syscall=9999"))
    assert told is not None
    assert told.text.endswith("the system call 9999")


def test_what_apparmor_denies_is_told_with_its_path() -> None:
    told = parse(APPARMOR)
    assert told is not None
    assert (told.pid, told.text) == (
        42,
        "its AppArmor profile 'cri-shim-default' denies 'cat': open /proc/kcore",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eth0: link becomes ready pid=3",
        SECCOMP.format(pid="x"),
        APPARMOR.replace("DENIED", "ALLOWED"),
        'audit: type=1300 audit(1.2:3): pid=42 comm="cat"',
    ],
)
def test_other_records_tell_nothing(text: str) -> None:
    assert parse(text) is None
