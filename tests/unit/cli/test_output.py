import io

import pytest

from shim._proto import images_pb2 as own
from shim.cli import output


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1234567, "1.2 MB"), (5e9, "5.0 GB"), (3e15, "3000.0 TB")],
)
def test_sizes(value: float, text: str) -> None:
    assert output.size(value) == text


def test_bars_end_with_the_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    image = own.LoadedImage(id="sha256:1")
    messages = [
        own.Progress(phase="resolving"),
        own.Progress(item="sha256:2", phase="fetching", done_bytes=1, total_bytes=2),
        own.Progress(image=image),
    ]
    assert output.pull_progress(messages) == image
    assert "fetching" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_a_pull_that_just_ends_has_no_image(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: terminal)
    assert output.pull_progress([]) is None


@pytest.mark.parametrize("terminal", [True, False])
def test_a_file_is_read_whole(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: terminal)
    data = b"x" * (output._CHUNK_BYTES + 1)
    assert b"".join(output.read_chunks(io.BytesIO(data), len(data), "loading")) == data
