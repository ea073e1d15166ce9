from shim.cgroups import hierarchy, oom


def test_kills_on_both_versions() -> None:
    assert oom.parse_kills("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 1\n") == 2
    assert oom.parse_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n") == 4
    assert oom.parse_kills("oom_kill_disable 0\n") == 0


def test_without_a_memory_controller_nothing_is_watched() -> None:
    assert oom.watch(hierarchy.Hierarchy({"cpu": "/c/cpu"}, "/c/unified"), "/x") == {}
