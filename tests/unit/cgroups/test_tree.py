"""What is enabled where, on ordinary files; that the kernel does it is an integration test."""

from pathlib import Path

from shim.cgroups import tree
from shim.cgroups.hierarchy import Hierarchy


def test_a_controller_that_a_slice_lacks_is_enabled_from_the_root_down(tmp_path: Path) -> None:
    for below, has in (("", "cpu hugetlb rdma"), ("a.slice", "cpu"), ("a.slice/a-b.slice", "cpu")):
        directory = tmp_path / below
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text(has + "\n")
        (directory / "cgroup.subtree_control").write_text("cpu\n")
    tree.make(Hierarchy({}, str(tmp_path)), "/a.slice/a-b.slice/x.scope")
    assert (tmp_path / "a.slice/a-b.slice/x.scope").is_dir()
    assert (tmp_path / "cgroup.subtree_control").read_text().startswith("+hugetlb")
    # A file does not hand down what the kernel would: these have no more to enable.
    assert (tmp_path / "a.slice/cgroup.subtree_control").read_text() == "cpu\n"


def test_where_nothing_is_lacking_the_root_is_left_alone(tmp_path: Path) -> None:
    for below in ("", "p"):
        (tmp_path / below).mkdir(exist_ok=True)
        (tmp_path / below / "cgroup.controllers").write_text("cpu memory\n")
        (tmp_path / below / "cgroup.subtree_control").write_text("\n")
    tree.make(Hierarchy({}, str(tmp_path)), "/p/c")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "\n"
    assert (tmp_path / "p/cgroup.subtree_control").read_text().startswith("+")
