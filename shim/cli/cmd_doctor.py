"""``cri-shim doctor``: what this host lacks."""

from __future__ import annotations

from typing import Any, Final

import click

from shim.cli import options
from shim.daemon import doctor

COLORS: Final = {doctor.Level.OK: "green", doctor.Level.WARNING: "yellow", doctor.Level.MISSING: "red"}


@click.command("doctor")
@options.configuration
@click.option("-v", "--verbose", is_flag=True, help="Print what is in order too.")
def command(verbose: bool, **flags: Any) -> None:
    """Tell what this host lacks to run containers, one line each, and what to do.

    The exit code is 1 if something is missing, 0 otherwise.
    """
    config = options.load(**flags).config
    findings = doctor.examine(doctor.Host.here(config.network.bridge), config)
    for finding in findings:
        if finding.level is doctor.Level.OK and not verbose:
            continue
        remedy = f": {finding.remedy}" if finding.remedy else ""
        level = click.style(f"{finding.level.value:8}", fg=COLORS[finding.level])
        click.echo(f"{level}{finding.subject}: {finding.found}{remedy}")
    if any(finding.level is doctor.Level.MISSING for finding in findings):
        raise SystemExit(1)
    if all(finding.level is doctor.Level.OK for finding in findings):
        click.echo("nothing is missing")
