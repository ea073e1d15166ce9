from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.streaming.spdy_frames import FrameError, HeaderReader, HeaderWriter, data_header

NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=50)


@settings(deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=5))
def test_headers_come_back_block_by_block(blocks: list[dict[str, str]]) -> None:
    writer, reader = HeaderWriter(), HeaderReader(1 << 16)
    for block in blocks:
        assert dict(reader.decode(writer.encode(block.items()))) == block


def test_names_become_lower_case_and_values_of_one_name_stay_apart() -> None:
    block = HeaderWriter().encode((("Port", "1"), ("port", "2"), ("streamType", "data")))
    assert HeaderReader(1000).decode(block) == (("port", "1"), ("port", "2"), ("streamtype", "data"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\0\1",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\0\0\0\5abc",
        b"\0\0\0\1\xff\xff\xff\xffabc",
        b"\0\0\0\0rest",
        b"\0\0\0\1\0\0\0\1\xff\0\0\0\0",
    ],
)
def test_what_is_no_block_is_refused(raw: bytes) -> None:
    writer = HeaderWriter()
    block = writer._zlib.compress(raw) + writer._zlib.flush()
    with pytest.raises(FrameError):
        HeaderReader(1000).decode(block)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_rubbish_is_refused(block: bytes) -> None:
    with pytest.raises(FrameError):
        HeaderReader(1000).decode(block)


def test_a_data_frame_says_its_stream_its_length_and_whether_it_is_the_last() -> None:
    assert data_header(3, 0x010203) == b"\0\0\0\3\0\1\2\3"
    assert data_header(3, 0, fin=True) == b"\0\0\0\3\1\0\0\0"
