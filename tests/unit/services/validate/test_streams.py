import pytest

from shim.errors import InvalidArgument
from shim.model.streams import StreamOptions
from shim.services.validate import streams


def test_streams_that_make_sense_are_accepted() -> None:
    streams.check_options(StreamOptions(stdin=True))
    streams.check_options(StreamOptions(stdin=True, stdout=True, tty=True))
    streams.check_options(StreamOptions(stderr=True))
    streams.check_ports((1, 65535))
    streams.check_ports(())
    streams.check_size(0, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (StreamOptions(), "at least one"),
        (StreamOptions(tty=True), "at least one"),
        (StreamOptions(stdout=True, stderr=True, tty=True), "one output"),
    ],
)
def test_streams_that_make_none_are_refused(options: StreamOptions, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        streams.check_options(options)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_out_of_range_are_refused(port: int) -> None:
    with pytest.raises(InvalidArgument, match="is not a port"):
        streams.check_ports((80, port))


@pytest.mark.parametrize("size", [(-1, 1), (1, 65536)])
def test_sizes_that_the_kernel_cannot_take_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgument, match="terminal cannot have"):
        streams.check_size(*size)
