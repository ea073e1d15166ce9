import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.images.unpack import attributes

CLEAN = {
    b"a/b": b"a/b",
    b"./a": b"a",
    b"/abs/name": b"abs/name",
    b"a//b/./c/": b"a/b/c",
    b".": b"",
    b"./": b"",
    b"/": b"",
    b".hidden": b".hidden",
    b"a/..b": b"a/..b",
}


@pytest.mark.parametrize(("raw", "clean"), CLEAN.items())
def test_paths_become_relative_to_the_layer(raw: bytes, clean: bytes) -> None:
    assert attributes.clean(raw) == clean


@pytest.mark.parametrize("raw", [b"..", b"../a", b"a/..", b"a/../b", b"/..", b"./../a", b"a\0b", b"a" * 4096])
def test_paths_that_leave_the_layer_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match="malformed layer"):
        attributes.clean(raw)


@given(st.lists(st.sampled_from([b"a", b"..", b".", b"", b".wh.x", b"..."]), max_size=8).map(b"/".join))
def test_no_clean_path_has_a_part_that_leads_elsewhere(raw: bytes) -> None:
    try:
        clean = attributes.clean(raw)
    except InvalidArgument:
        assert b".." in raw.split(b"/")
        return
    assert clean == b"" or not {b"", b".", b".."} & set(clean.split(b"/"))
