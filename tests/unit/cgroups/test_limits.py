"""The order and the way back, on ordinary files; that the kernel takes them is an integration test."""

from pathlib import Path

import pytest

from shim.cgroups import limits
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import FailedPrecondition, InvalidArgument, Unavailable


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    directory = tmp_path / "c"
    directory.mkdir()
    for name in ("cpu.weight", "memory.max", "hugetlb.2MB.max"):
        (directory / name).write_text("old\n")
    return directory


@pytest.fixture
def found(tmp_path: Path) -> Hierarchy:
    return Hierarchy({}, str(tmp_path))


WRITES = [("cpu", "cpu.weight", "7"), ("memory", "memory.max", "8")]


def content(cgroup: Path) -> list[str]:
    return [(cgroup / name).read_text().strip()[:3] for name in ("cpu.weight", "memory.max")]


def test_all_are_written_and_told_of(cgroup: Path, found: Hierarchy) -> None:
    told = []
    limits.replace(found, "/c", WRITES, lambda: told.append(content(cgroup)))
    assert told == [content(cgroup)]
    assert [text[0] for text in content(cgroup)] == ["7", "8"]


def test_where_telling_fails_nothing_has_changed(cgroup: Path, found: Hierarchy) -> None:
    def fail() -> None:
        raise Unavailable("systemd does not answer")

    with pytest.raises(Unavailable):
        limits.replace(found, "/c", WRITES, fail)
    assert content(cgroup) == ["old", "old"]


def test_where_one_cannot_be_written_the_others_are_as_they_were(cgroup: Path, found: Hierarchy) -> None:
    with pytest.raises(FailedPrecondition, match=r"cannot set memory\.high"):
        limits.replace(found, "/c", [*WRITES, ("memory", "memory.high", "1")])
    assert content(cgroup) == ["old", "old"]


def test_a_page_size_that_the_node_lacks_is_told_with_those_it_has(cgroup: Path, found: Hierarchy) -> None:
    with pytest.raises(InvalidArgument, match=r"hugetlb\.1GB\.max: this node has huge pages of 2MB"):
        limits.apply(found, "/c", [("hugetlb", "hugetlb.1GB.max", "1")])
    limits.apply(found, "/c", [("hugetlb", "hugetlb.2MB.rsvd.max", "1"), ("memory", "memory.swap.max", "0")])
    assert cgroup.exists()


def test_a_controller_that_the_node_lacks_is_refused_but_for_huge_pages() -> None:
    nothing = Hierarchy({"cpu": "/nowhere"})
    limits.apply(nothing, "/c", [("hugetlb", "hugetlb.2MB.limit_in_bytes", "1")])
    with pytest.raises(FailedPrecondition, match="no cgroup controller 'memory'"):
        limits.apply(nothing, "/c", [("memory", "memory.limit_in_bytes", "1")])
