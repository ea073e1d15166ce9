"""``cri-shim why``: what has happened to one object, and the cause of its state as the last line."""

from __future__ import annotations

import time
from typing import Any

import click

from shim._proto import timeline_pb2 as wire
from shim.cli import client, options


@click.command("why")
@click.argument("subject")
@options.endpoint
@click.option("-s", "--stages", is_flag=True, help="Also the stages of calls that went well.")
def command(subject: str, socket: str, stages: bool) -> None:
    """Tell what has happened to SUBJECT, and why it is as it is: the last line names the cause.

    SUBJECT is a pod, a container or an image: an id, a prefix of one, or a name (of a container also
    namespace/pod/container).
    """
    with client.connect(socket) as daemon:
        answer = daemon.timeline.Why(wire.WhyRequest(subject=subject))
    click.echo(click.style(answer.title, bold=True))
    for entry in answer.entries:
        for line in format_entry(entry, all_stages=stages):
            click.echo(line)
    for line in answer.waiting:
        click.echo(click.style(f"waiting    {line}", fg="yellow"))
    click.echo(click.style(answer.conclusion, bold=True))


def format_entry(entry: Any, *, all_stages: bool) -> list[str]:
    """Return the lines of one entry."""
    seconds, ns = divmod(entry.at_ns, 10**9)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{ns // 10**6:03}"
    mark = click.style("ok    ", fg="green") if entry.ok else click.style("failed", fg="red")
    took = f" {entry.took_us / 1000:.1f} ms" if entry.took_us else ""
    times = f" ({entry.times} times)" if entry.times > 1 else ""
    lines = [f"{at} {mark} {entry.what}{took}{times}" + (f": {entry.text}" if entry.text else "")]
    if all_stages or not entry.ok:
        lines += [_format_stage(stage) for stage in entry.stages]
    return lines


def _format_stage(stage: Any) -> str:
    took = f"{stage.took_us / 1000:10.1f} ms" if stage.took_us >= 0 else "   not ended"
    failed = click.style("  failed", fg="red") if stage.failed else ""
    return f"{'':24}{took}  {'  ' * stage.depth}{stage.name}{failed}"
