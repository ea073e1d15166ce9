"""``cri-shim serve``."""

from __future__ import annotations

from typing import Any

import click

from shim.cli import options


@click.command("serve")
@options.configuration
def command(**flags: Any) -> None:
    """Run the daemon in the foreground.

    SIGTERM and SIGINT stop it; containers go on, and the next daemon finds them.
    """
    loaded = options.load(**flags)
    from shim.daemon import main

    main.run(loaded.config)
