"""A container with a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.model.mount import Volume
from shim.model.security import ContainerSecurity, User

pytestmark = pytest.mark.root


async def test_the_terminal_is_the_containers_own(bed: Any) -> None:
    script = """
        tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; ls -1 /proc/self/fd; ls -1 /dev/pts
        stat -c '%F %t:%T' /dev/console; stat -c %u /dev/pts/0; echo through >/dev/tty
        ps -o pid,tty | grep 136"""
    user = User(1000, 1000)
    lines = (
        (await bed.output(await bed.sandbox(), script, tty=True, user=user)).replace("\r", "").splitlines()
    )
    assert lines[:6] == ["/dev/pts/0", "all", "0", "1", "2", "3"]
    assert lines[6:11] == ["0", "ptmx", "character special file 88:0", "1000", "through"]
    assert lines[11].split() == ["1", "136,0"]


async def test_a_terminal_under_a_readonly_root(bed: Any) -> None:
    security = ContainerSecurity(readonly_rootfs=True)
    assert "/dev/pts/0" in await bed.output(await bed.sandbox(), "tty", tty=True, security=security)


async def test_the_terminal_hangs_up_when_its_program_ends(bed: Any) -> None:
    sandbox = await bed.sandbox()
    spec = bed.spec(sandbox, "sh", "-c", "sleep 1000 & exit 5", tty=True)
    await bed.start(sandbox, spec)
    assert (await bed.exit_of(spec.id)).exit_code == 5


async def test_a_volume_at_the_terminals_place_is_refused(bed: Any) -> None:
    sandbox = await bed.sandbox()
    volumes = (Volume("/dev/pts", "/dev/pts"),)
    with pytest.raises(InvalidArgument, match="terminal"):
        await bed.start(sandbox, bed.spec(sandbox, "true", tty=True, volumes=volumes))
