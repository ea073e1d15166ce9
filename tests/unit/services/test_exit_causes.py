import pytest

from shim.model.container import ExitRecord
from shim.services.exit_causes import Cause, describe, is_expected


def record(exit_code: int, signal: int = 0, oom_kills: int = 0, source: str = "wait") -> ExitRecord:
    return ExitRecord("c", 7, exit_code, signal, oom_kills, 1, source)


@pytest.mark.parametrize(
    ("ended", "cause", "text", "expected"),
    [
        (record(0), Cause(), "exit code 0", True),
        (record(3), Cause(), "exit code 3", False),
        (
            record(137, 9, 2),
            Cause(memory_limit_bytes=1024),
            "exit code 137, killed by SIGKILL: OOMKilled: it needed more than its memory limit of 1024 bytes",
            False,
        ),
        (record(137, 9, 1), Cause(asked=True, killed=True), "has no memory limit of its own", False),
        (record(1, 0, 1), Cause(), "has killed 1 of its processes before", False),
        (record(143, 15), Cause(asked=True), "exit code 143, killed by SIGTERM: a stop was asked for", True),
        (
            record(137, 9),
            Cause(asked=True, killed=True, grace_s=2, stop_signal=15),
            "it had not ended 2 s after SIGTERM",
            False,
        ),
        (record(137, 9), Cause(asked=True, killed=True), "a stop without grace", True),
        (record(137, 9), Cause(), "from outside of this program", False),
        (record(159, 31), Cause(seccomp="strict.json"), "its seccomp profile 'strict.json'", False),
        (record(255, source="unknown"), Cause(asked=True), "exit code is unknown", False),
        (
            record(168, 40),
            Cause(asked=True, killed=True, grace_s=1, stop_signal=40),
            "after signal 40",
            False,
        ),
    ],
)
def test_an_end_is_told_with_its_cause(ended: ExitRecord, cause: Cause, text: str, expected: bool) -> None:
    assert text in describe(ended, cause)
    assert is_expected(ended, cause) is expected
