import os
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition
from shim.store import lock


def test_a_second_daemon_is_told_who_has_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fd = lock.hold(path)
    try:
        with pytest.raises(FailedPrecondition, match=rf"pid {os.getpid()}\) uses {tmp_path}"):
            lock.hold(path)
    finally:
        os.close(fd)
    os.close(lock.hold(path))
