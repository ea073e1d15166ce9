"""Writing labels by a /proc that nobody else has put there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition
from shim.kernel import lsm

pytestmark = pytest.mark.root

# What stands where a container has mounted something: each prints what becomes of it.
PRETENDED = """
import os, sys
from shim.errors import FailedPrecondition
from shim.kernel import lsm, mount, namespaces
namespaces.unshare(namespaces.flags_of(("mnt",)))
mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
{mounts}
try:
    proc = lsm.open_proc()
    os.write(lsm.open_attribute(proc, ("attr/exec",)), b"x")
except (FailedPrecondition, OSError) as error:
    print(type(error).__name__, error)
"""


def pretend(mounts: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRETENDED.format(mounts=mounts)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_attributes_of_this_thread_are_opened(tmp_path: Path) -> None:
    proc = lsm.open_proc()
    fd = lsm.open_attribute(proc, ("attr/apparmor-of-the-future/exec", "attr/exec"))
    assert os.readlink(f"/proc/self/fd/{fd}") == f"/proc/{os.getpid()}/task/{os.getpid()}/attr/exec"
    with pytest.raises(FailedPrecondition, match="attr/nope"):
        lsm.open_attribute(proc, ("attr/nope", "attr/neither"))
    os.close(fd)
    os.close(proc)


@pytest.mark.parametrize(
    ("mounts", "word"),
    [
        ('mount.mount("x", "/proc", "tmpfs")', "not the root of a proc file system"),
        (
            'mount.mount("/proc/sys", "/proc", None, mount.MS_BIND)',
            "not the root of a proc file system",
        ),
        (
            'at = f"/proc/{os.getpid()}/task/{os.getpid()}/attr"; mount.mount("x", at, "tmpfs")',
            "KernelError",
        ),
        (
            'mount.mount("x", f"/proc/{os.getpid()}/task", "tmpfs")',
            "KernelError",
        ),
    ],
)
def test_what_only_looks_like_it_is_refused(mounts: str, word: str) -> None:
    assert word in pretend(mounts)
