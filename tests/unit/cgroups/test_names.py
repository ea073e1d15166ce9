import pytest

from shim.cgroups import names
from shim.errors import InvalidArgument


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
