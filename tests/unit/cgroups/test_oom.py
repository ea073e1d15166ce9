import os
from pathlib import Path

import pytest

from shim.cgroups import hierarchy, oom
from shim.errors import KernelError


def test_kills_on_both_versions() -> None:
    assert oom.parse_kills("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 1\n") == 2
    assert oom.parse_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n") == 4
    assert oom.parse_kills("oom_kill_disable 0\n") == 0


def test_without_a_memory_controller_nothing_is_watched() -> None:
    assert oom.watch(hierarchy.Hierarchy({"cpu": "/c/cpu"}, "/c/unified"), "/x") == {}


def test_a_pod_without_the_controller_is_not_watched(tmp_path: Path) -> None:
    found = hierarchy.Hierarchy({}, str(tmp_path))
    (tmp_path / "c").mkdir()
    assert oom.watch(found, "/c") == {}
    (tmp_path / "c/memory.events").write_text("oom_kill 0\n")
    watched = oom.watch(found, "/c")
    assert list(watched) == ["memory_events"]
    os.close(watched["memory_events"])
    with pytest.raises(KernelError):
        oom.watch(found, "/gone")
