import pytest

from shim.cgroups import stats
from shim.model.stats import MemoryStats


def test_working_set_is_usage_less_inactive_files_on_both_versions() -> None:
    flat = stats.parse_flat("inactive_file 30\nanon 50\npgfault 7\npgmajfault 1\n")
    assert stats.memory_v2(1, 100, 200, 5, flat) == MemoryStats(1, 100, 70, 50, 200, 7, 1, 5)
    total = {
        "total_inactive_file": 30,
        "total_rss": 50,
        "total_pgfault": 7,
        "total_pgmajfault": 1,
        "total_swap": 5,
    }
    assert stats.memory_v1(1, 100, 200, total) == MemoryStats(1, 100, 70, 50, 200, 7, 1, 5)


def test_working_set_is_never_negative() -> None:
    assert stats.memory_v2(1, 10, 0, 0, {"inactive_file": 30}).working_set_bytes == 0


@pytest.mark.parametrize(("text", "limit"), [("max\n", 0), ("9223372036854771712\n", 0), ("4096\n", 4096)])
def test_limits(text: str, limit: int) -> None:
    assert stats.parse_limit(text) == limit
