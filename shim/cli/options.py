"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from shim.daemon import config_files

F = TypeVar("F", bound=Callable[..., Any])

# Flag to the key of the configuration that it sets.
FLAGS: Final = {
    "root": "root",
    "state": "state",
    "socket": "socket",
    "log_level": "log.level",
    "log_format": "log.format",
    "cgroup_driver": "cgroup.driver",
    "network_mode": "network.mode",
}


def configuration(function: F) -> F:
    """Add --config, a flag for each usual key, and --set for all others."""
    for option in (
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set any key."),
        click.option("--network-mode", help="auto, builtin or cni."),
        click.option("--cgroup-driver", help="auto, systemd or cgroupfs."),
        click.option("--log-format", help="text or json."),
        click.option("--log-level", help="debug, info, warning or error."),
        click.option("--socket", help="Socket of the CRI."),
        click.option("--state", help="Directory of what a reboot voids."),
        click.option("--root", help="Directory of what is kept."),
        click.option("--config", metavar="FILE", help=f"Instead of {config_files.DEFAULT_PATH}."),
    ):
        function = option(function)
    return function


def load(config: str | None, settings: tuple[str, ...], **flags: str | None) -> config_files.Loaded:
    """Return the configuration that files and flags make.

    Raises:
        InvalidArgument: something in it is wrong.
    """
    given: dict[str, Any] = {FLAGS[name]: value for name, value in flags.items() if value is not None}
    given |= dict(config_files.parse_flag(text) for text in settings)
    return config_files.load(config, given)


def login(function: F) -> F:
    """Add --username and --password-stdin, for a registry."""
    function = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")(
        function
    )
    return click.option("--username", help="For a registry that asks for one.")(function)


def endpoint(function: F) -> F:
    """Add --socket for clients; without it the socket is the configuration's."""
    return click.option(
        "--socket",
        envvar="CRI_SHIM_SOCKET",
        callback=lambda _ctx, _param, value: value or config_files.load().config.socket_path,
        help="Socket of the daemon. [default: the configuration's]",
    )(function)
