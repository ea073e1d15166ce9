from shim.cgroups import stats

V2 = {
    b"inactive_file": 30,
    b"active_file": 11,
    b"anon": 50,
    b"file": 45,
    b"file_mapped": 4,
    b"kernel": 9,
    b"pgfault": 7,
    b"pgmajfault": 1,
}
V1 = {
    b"inactive_file": 1,
    b"total_inactive_file": 30,
    b"total_active_file": 11,
    b"total_rss": 50,
    b"total_cache": 45,
    b"total_mapped_file": 4,
    b"total_pgfault": 7,
    b"total_pgmajfault": 1,
    b"total_swap": 5,
    b"hierarchical_memory_limit": 200,
    b"hierarchical_memsw_limit": 300,
}


def test_both_versions_tell_the_same() -> None:
    one = stats.memory_v1(1, 100, 200, V1)
    two = stats.memory_v2(1, 100, 200, 5, b"100\n", V2 | {b"kernel": 0})
    assert one == two
    assert (two.working_set_bytes, two.rss_bytes, two.swap_bytes, two.swap_limit_bytes) == (70, 50, 5, 100)


def test_working_set_is_never_negative() -> None:
    assert stats.memory_v2(1, 10, 0, 0, None, {b"inactive_file": 30}).working_set_bytes == 0


def test_no_swap_at_all_is_told_apart_from_no_limit() -> None:
    none = stats.memory_v1(1, 1, 1, {b"hierarchical_memory_limit": 200, b"hierarchical_memsw_limit": 200})
    assert (none.swap_limit_bytes, none.swap_allowed) == (0, False)
    assert stats.memory_v1(1, 1, 1, {}).swap_allowed
    assert not stats.memory_v2(1, 1, 1, 0, b"0\n", {}).swap_allowed
    assert stats.memory_v2(1, 1, 1, 0, b"max\n", {}).swap_allowed
    assert stats.memory_v2(1, 1, 1, 0, None, {}).swap_allowed
