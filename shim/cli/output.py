"""What people see: bars and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from shim._proto import images_pb2

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_SHORT: Final = 12
_CHUNK_BYTES: Final = 1 << 20


def on_terminal() -> bool:
    """Tell whether bars would be seen."""
    return sys.stderr.isatty()


def size(value: float) -> str:
    """Return a size in bytes as people read it (powers of 1000)."""
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"


def short_id(digest: str) -> str:
    """Return the start of a digest."""
    return digest.removeprefix("sha256:")[:_SHORT]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def pull_progress(messages: Iterable[images_pb2.Progress]) -> images_pb2.LoadedImage | None:
    """Show the progress of a pull until its end; return the image."""
    return _bars(messages) if on_terminal() else _lines(messages)


def _lines(messages: Iterable[images_pb2.Progress]) -> images_pb2.LoadedImage | None:
    phases: dict[str, str] = {}
    for message in messages:
        if message.HasField("image"):
            return message.image
        if phases.get(message.item) != message.phase:
            phases[message.item] = message.phase
            total = f" ({size(message.total_bytes)})" if message.total_bytes else ""
            what = short_id(message.item) if message.item else "image"
            click.echo(f"{what}: {message.phase}{total}", err=True)
    return None


def _bars(messages: Iterable[images_pb2.Progress]) -> images_pb2.LoadedImage | None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description:<12}"),
        TextColumn("{task.fields[phase]:<10}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for message in messages:
            if message.HasField("image"):
                return message.image
            if not message.item:
                continue
            if message.item not in tasks:
                tasks[message.item] = progress.add_task(short_id(message.item), phase="", total=None)
            progress.update(
                tasks[message.item],
                phase=message.phase,
                completed=message.done_bytes,
                total=message.total_bytes or None,
            )
    return None


def read_chunks(file: IO[bytes], total_bytes: int, what: str) -> Iterator[bytes]:
    """Yield a file in chunks, with a bar on a terminal; ``total_bytes`` 0 means unknown."""
    if not on_terminal():
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total_bytes or None)
        while chunk := file.read(_CHUNK_BYTES):
            progress.advance(task, len(chunk))
            yield chunk
