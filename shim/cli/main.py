"""The command line. Each command is a module of its own, imported when it is called: starting stays fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import click

import shim
from shim.errors import ShimError

# Command name to (module, help); the module has a click command named ``command``.
COMMANDS: Final = {
    "serve": ("shim.cli.cmd_serve", "Run the daemon in the foreground."),
    "config": ("shim.cli.cmd_config", "Print or check the configuration."),
    "doctor": ("shim.cli.cmd_doctor", "Tell what this host lacks, and what to do."),
    "image": ("shim.cli.cmd_image", "Pull, load, save, list, inspect and remove images."),
    "registry": ("shim.cli.cmd_registry", "Tell which registries a pull asks, and try them."),
    "why": ("shim.cli.cmd_why", "Tell what has happened to a pod, container or image, and why."),
    "top": ("shim.cli.cmd_top", "Show pods and containers by what they use."),
    "version": ("shim.cli.cmd_version", "Print the version of this program, and of the daemon if it runs."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what we raise on purpose becomes one line, not a traceback."""
        try:
            return super().invoke(ctx)
        except ShimError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # click knows that the reader of our output has left
        except OSError as error:
            raise click.ClickException(f"cannot go on: {error}") from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(shim.__version__, prog_name="cri-shim", message="%(prog)s %(version)s")
def cli() -> None:
    """A Kubernetes container runtime in Python."""


def main() -> None:
    """Run the command line and exit."""
    sys.exit(cli(prog_name="cri-shim"))
