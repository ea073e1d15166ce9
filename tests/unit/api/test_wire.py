import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim._proto import api_pb2 as cri
from shim.api import wire


@given(st.integers(0, 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"])))
def test_fields_are_what_the_library_makes_of_them(value: int, text: str) -> None:
    metric = cri.Metric(name=text, timestamp=value, label_values=["", text])
    label = wire.text(4, "") + wire.text(4, text)
    made = (wire.text(1, text) if text else b"") + wire.number(2, value) + label
    assert made == metric.SerializeToString()


@pytest.mark.parametrize(
    ("pieces", "chunks"),
    [
        ([], [b""]),
        ([b"ab", b"c", b"def", b"g"], [b"abc", b"def", b"g"]),
        ([b"abcdef", b"g"], [b"abcdef", b"g"]),
        ([b"abc"], [b"abc"]),
    ],
)
def test_chunks_are_whole_pieces(pieces: list[bytes], chunks: list[bytes]) -> None:
    assert list(wire.chunks(pieces, 3)) == chunks
