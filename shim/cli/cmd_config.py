"""``cri-shim config``: print or check the configuration."""

from __future__ import annotations

from typing import Any

import click

from shim.cli import options
from shim.daemon.config import Config
from shim.daemon.config_text import format_config


@click.group("config")
def command() -> None:
    """Print or check the configuration."""


@command.command("default")
def default() -> None:
    """Print the default configuration, with every key explained."""
    click.echo(format_config(Config()), nl=False)


@command.command("check")
@options.configuration
def check(**flags: Any) -> None:
    """Check files and flags; say what is wrong with the first bad key, or nothing."""
    options.load(**flags)


@command.command("show")
@options.configuration
def show(**flags: Any) -> None:
    """Print the configuration in force, and which file set what."""
    loaded = options.load(**flags)
    click.echo(format_config(loaded.config, loaded.origins), nl=False)
