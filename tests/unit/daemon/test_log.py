import json
import logging
from collections.abc import Callable, Iterator

import pytest

from shim._proto import api_pb2 as cri
from shim.api import calls
from shim.daemon import log
from shim.daemon.config import LogConfig


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    # configure() closes the handlers that it replaces; pytest's own must live.
    root.handlers = []
    yield lambda: capsys.readouterr().err
    root.handlers = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_a_line_of_text_ends_with_the_ids_of_its_call(stderr: Callable[[], str]) -> None:
    log.configure(LogConfig())
    with calls.enter("StopContainer", cri.StopContainerRequest(container_id="c1")):
        logging.getLogger("shim.services.stop").info("sent %s", "SIGTERM")
    line = stderr().splitlines()[0]
    assert line[10] == "T"
    assert line.endswith("Z info    services.stop: sent SIGTERM method=StopContainer container=c1")


def test_json_is_one_object_a_line(stderr: Callable[[], str]) -> None:
    log.configure(LogConfig(format="json"))
    with calls.enter("StopContainer", cri.StopContainerRequest(container_id="c1")):
        logging.getLogger("shim.x").warning("a\nb")
    entry = json.loads(stderr().splitlines()[0])
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "shim.x",
        "message": "a\nb",
        "method": "StopContainer",
        "container": "c1",
    }


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_traceback_is_kept(stderr: Callable[[], str], format_: str) -> None:
    log.configure(LogConfig(format=format_))
    try:
        int("why")
    except ValueError:
        logging.getLogger("shim").exception("cannot")
    assert "ValueError: invalid literal" in stderr()


def test_nobody_can_forge_a_line(stderr: Callable[[], str]) -> None:
    log.configure(LogConfig())
    logging.getLogger("shim").info("image %s", "a\n2026 error forged\x1b[2J")
    text = stderr()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


def test_the_level_counts_and_libraries_keep_quiet(stderr: Callable[[], str]) -> None:
    log.configure(LogConfig(level="info"))
    logging.getLogger("shim").debug("no")
    logging.getLogger("httpx").info("no")
    logging.getLogger("httpx").warning("yes")
    assert [line.split(": ")[-1] for line in stderr().splitlines()] == ["yes"]
