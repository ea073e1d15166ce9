"""``cri-shim registry``: which registries the daemon asks for an image, and what becomes of a try."""

from __future__ import annotations

import sys

import click

from shim._proto import images_pb2 as own
from shim.cli import client, options


@click.group("registry")
def command() -> None:
    """Tell which registries a pull asks, and try them."""


@command.command("explain")
@options.endpoint
@options.login
@click.argument("reference")
def explain(socket: str, username: str | None, password_stdin: bool, reference: str) -> None:
    """Print which hosts a pull would ask, in which order, with which credentials, and why. Asks none."""
    request = _request(reference, username, password_stdin)
    with client.connect(socket) as daemon:
        found = daemon.registry.Explain(request)
    click.echo(found.reference)
    for line in describe(found):
        click.echo(f"  {line}")


@command.command("test")
@options.endpoint
@options.login
@click.argument("reference")
def test(socket: str, username: str | None, password_stdin: bool, reference: str) -> None:
    """Try a pull at each host it would ask, and print how long each step takes. Nothing is kept.

    The exit code is 1 if no host has given a blob.
    """
    request = _request(reference, username, password_stdin)
    url, worked = "", False
    with client.connect(socket) as daemon:
        for step in daemon.registry.Test(request):
            if step.url != url:
                url = step.url
                click.echo(url)
            worked = worked or (step.name == "blob" and not step.error)
            click.echo(f"  {step.name:9}{step.seconds * 1000:9.1f} ms  {_outcome(step)}".rstrip())
    if not worked:
        raise SystemExit(1)


def _request(reference: str, username: str | None, password_stdin: bool) -> own.RegistryRequest:
    if bool(username) != password_stdin:
        raise click.UsageError("--username and --password-stdin belong together")
    request = own.RegistryRequest(reference=reference)
    if username:
        request.username = username
        request.password = sys.stdin.readline().rstrip("\r\n")
    return request


def _outcome(step: own.TestStep) -> str:
    return click.style(f"FAILED: {step.error}", fg="red") if step.error else step.detail


def describe(found: own.Explanation) -> list[str]:
    """Return the lines of an explanation, without its first."""
    lines = [f"warning: {warning}" for warning in found.warnings]
    if found.offline:
        lines.append("nobody is asked: this node is offline (registry.offline = true)")
    lines.append(f"by {found.source}" if found.source else "no file says which hosts to ask; looked for:")
    if not found.source:
        lines += [f"  {path}" for path in found.tried]
    for number, host in enumerate(found.hosts, 1):
        lines.append(f"{number}. {host.url}")
        for name, text in (
            ("why", host.reason),
            ("for", ", ".join(host.capabilities)),
            ("credentials", host.credentials),
            ("tls", host.tls),
            ("proxy", host.proxy or "none"),
            ("state", host.state),
        ):
            if text:
                lines.append(f"     {name + ':':13}{text}")
    return lines
