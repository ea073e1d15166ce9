import pytest

from shim.cgroups import names
from shim.errors import InvalidArgument

POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"


@pytest.mark.parametrize(
    ("asked", "parent"),
    [
        ("", "/own"),
        ("/kubepods/podx", "/kubepods/podx"),
        ("kubepods//x/./", "/kubepods/x"),
        ("/a.slice/b", "/a.slice/b"),
    ],
)
def test_the_parent_in_force(asked: str, parent: str) -> None:
    assert names.resolve_parent(asked, "/own") == parent


@pytest.mark.parametrize("asked", ["/", "//", ".", "/a/../b", "..", "/a\nb", "/a\0b", "/" + "x" * 256])
def test_what_is_no_place_is_refused(asked: str) -> None:
    with pytest.raises(InvalidArgument):
        names.resolve_parent(asked, "/own")


def test_a_slice_tells_that_the_drivers_differ() -> None:
    with pytest.raises(InvalidArgument, match="same driver"):
        names.resolve_parent("kubepods-podx.slice", "/own")


def test_an_exec_is_hidden_from_cadvisor() -> None:
    assert names.of_exec(names.of("/p", "x"), 7) == "/p/x/exec-7.mount"


def test_ancestors_outermost_first() -> None:
    assert names.ancestors("/a/b/c") == ["/a", "/a/b"]
    assert names.ancestors("/a") == []


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("a.slice", "/a.slice"),
        ("kubepods-burstable-pod1_2.slice", POD),
        (POD, POD),
        ("/elsewhere/a-b.slice", "/a.slice/a-b.slice"),
    ],
)
def test_the_last_part_names_the_slice(asked: str, path: str) -> None:
    assert names.slice_path(asked) == path


@pytest.mark.parametrize(
    "asked",
    ["/kubepods/pod1", "/", ".slice", "-.slice", "-a.slice", "a-.slice", "a--b.slice", "a b.slice", "/a/.."],
)
def test_what_is_no_slice_is_refused(asked: str) -> None:
    with pytest.raises(InvalidArgument):
        names.slice_path(asked)


@pytest.mark.parametrize(
    ("path", "slice_"),
    [("/cri-shim", "/cri.slice/cri-shim.slice"), ("/a/b", "/a.slice/a-b.slice"), ("/a.slice", "/a.slice")],
)
def test_a_path_of_the_configuration_has_a_slice(path: str, slice_: str) -> None:
    assert names.own_slice(path) == slice_


def test_a_cgroup_of_either_driver_is_known_by_its_id() -> None:
    id_ = "0" * 64
    assert names.scope_of("/a.slice", id_) == f"/a.slice/cri-shim-{id_}.scope"
    assert names.id_of(f"cri-shim-{id_}.scope") == names.id_of(id_) == id_
    for name in ("cri-shim-1.scope", f"docker-{id_}.scope", f"{id_}.scope", "a.slice", "session-1.scope"):
        assert names.id_of(name) is None
