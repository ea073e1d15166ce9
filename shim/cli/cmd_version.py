"""``cri-shim version``."""

from __future__ import annotations

import os

import click

import shim
from shim.cli import options


@click.command("version")
@options.endpoint
def command(socket: str) -> None:
    """Print the version of this program, and of the daemon if it runs."""
    click.echo(f"cri-shim {shim.__version__}")
    if not os.path.exists(socket):
        click.echo(f"no daemon at {socket}")
        return
    from shim._proto import api_pb2 as cri
    from shim.cli import client

    with client.connect(socket) as daemon:
        answer = daemon.runtime.Version(cri.VersionRequest())
    click.echo(f"daemon {answer.runtime_name} {answer.runtime_version}, CRI {answer.runtime_api_version}")
