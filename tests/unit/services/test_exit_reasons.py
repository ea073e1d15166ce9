import dataclasses

from shim.model.container import ExitRecord
from shim.services.exit_reasons import exit_reason

END = ExitRecord("c1", 10, 0, 0, 0, 9)


def test_reasons_of_an_end() -> None:
    assert exit_reason(END) == "Completed"
    assert exit_reason(dataclasses.replace(END, exit_code=3)) == "Error"
    assert exit_reason(dataclasses.replace(END, exit_code=137, signal=9)) == "Error"
    assert exit_reason(dataclasses.replace(END, exit_code=255, source="unknown")) == "Unknown"


def test_oom_needs_both_the_signal_and_the_kernels_count() -> None:
    assert exit_reason(dataclasses.replace(END, exit_code=137, signal=9, oom_kills=1)) == "OOMKilled"
    assert exit_reason(dataclasses.replace(END, oom_kills=1)) == "Completed"
