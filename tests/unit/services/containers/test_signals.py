import signal

import pytest

from shim.errors import InvalidArgument
from shim.services.containers import signals


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGSTKFLT", 16)],
)
def test_an_image_names_its_stop_signal(text: str, number: int) -> None:
    assert signals.from_image(text) == number


@pytest.mark.parametrize("text", ["SIGNOPE", "0", "65", "-1", "SIG"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="stop signal"):
        signals.from_image(text)


def test_the_numbers_of_the_cri_go_to_the_kernels_and_back() -> None:
    assert signals.from_cri(23) == signal.SIGTERM
    assert signals.from_cri(65) == signal.SIGRTMAX
    for value in range(1, 66):
        assert signals.from_cri(signals.to_cri(signals.from_cri(value))) == signals.from_cri(value)
    with pytest.raises(InvalidArgument):
        signals.from_cri(66)


def test_the_request_wins_over_the_image_and_sigterm_is_the_default() -> None:
    assert signals.stop_signal(8, "SIGQUIT") == signal.SIGHUP
    assert signals.stop_signal(0, "SIGQUIT") == signal.SIGQUIT
    assert signals.stop_signal(0, "") == signal.SIGTERM
