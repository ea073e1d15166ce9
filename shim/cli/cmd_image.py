"""``cri-shim image``: the images of the daemon."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

import click

from shim import errors
from shim._proto import api_pb2 as cri
from shim._proto import images_pb2 as own
from shim.cli import client, options, output


@click.group("image")
def command() -> None:
    """Pull, load, save, list, inspect and remove images."""


@command.command("pull")
@options.endpoint
@options.login
@click.argument("reference")
def pull(socket: str, username: str | None, password_stdin: bool, reference: str) -> None:
    """Fetch an image from its registry."""
    if bool(username) != password_stdin:
        raise click.UsageError("--username and --password-stdin belong together")
    request = own.PullRequest(reference=reference)
    if username:
        request.username = username
        request.password = sys.stdin.readline().rstrip("\r\n")
    with client.connect(socket) as daemon:
        image = output.pull_progress(daemon.files.Pull(request))
    if image is None:
        raise errors.Internal("the daemon ended the pull without an image")
    click.echo(image.id)


@command.command("load")
@options.endpoint
@click.option("-i", "--input", "path", default="-", help="File to read; standard input if not given.")
@click.option("--name", default="", help="Name for images that have none in the archive.")
@click.option("--pin", is_flag=True, help="Keep them from the kubelet's garbage collection.")
def load(socket: str, path: str, name: str, pin: bool) -> None:
    """Take the images out of an OCI or docker archive, plain or compressed."""

    def chunks(file: IO[bytes], total_bytes: int) -> Iterator[own.LoadChunk]:
        yield own.LoadChunk(name=name, pinned=pin)
        for data in output.read_chunks(file, total_bytes, "loading"):
            yield own.LoadChunk(data=data)

    with client.connect(socket) as daemon, click.open_file(path, "rb") as file:
        total_bytes = 0 if path == "-" else os.path.getsize(path)
        answer = daemon.files.Load(chunks(file, total_bytes))
    for image in answer.images:
        click.echo(f"{output.short_id(image.id)} {' '.join(image.repo_tags) or '<no name>'}")


@command.command("save")
@options.endpoint
@click.option("-o", "--output", "path", required=True, help="File to write; - for standard output.")
@click.argument("names", nargs=-1, required=True)
def save(socket: str, path: str, names: tuple[str, ...]) -> None:
    """Write images into one OCI archive, which docker can load too."""
    with client.connect(socket) as daemon:
        chunks = (chunk.data for chunk in daemon.files.Save(own.SaveRequest(names=names)))
        if path == "-":
            sys.stdout.buffer.writelines(chunks)
            return
        _write_whole(path, chunks)


def _write_whole(path: str, chunks: Iterator[bytes]) -> None:
    """Write a file that is complete or not there."""
    folder, name = os.path.split(os.path.abspath(path))
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}-", delete=False) as file:
        try:
            file.writelines(chunks)
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@command.command("list")
@options.endpoint
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
def list_(socket: str, quiet: bool) -> None:
    """List images."""
    with client.connect(socket) as daemon:
        images = daemon.image.ListImages(cri.ListImagesRequest()).images
    if quiet:
        for image in images:
            click.echo(image.id)
        return
    rows = [
        (name, output.short_id(image.id), output.size(image.size), "pinned" if image.pinned else "")
        for image in images
        for name in (image.repo_tags or image.repo_digests or ["<none>"])
    ]
    output.table(("IMAGE", "ID", "SIZE", ""), sorted(rows))


@command.command("inspect")
@options.endpoint
@click.argument("name")
def inspect(socket: str, name: str) -> None:
    """Print all that is known of an image, as JSON."""
    with client.connect(socket) as daemon:
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=name), verbose=True)
        answer = daemon.image.ImageStatus(request)
    if not answer.HasField("image"):
        raise errors.NotFound("image", name)
    image = answer.image
    text = {
        "id": image.id,
        "repoTags": list(image.repo_tags),
        "repoDigests": list(image.repo_digests),
        "size": image.size,
        "pinned": image.pinned,
        **json.loads(answer.info["info"]),
    }
    click.echo(json.dumps(text, indent=2, ensure_ascii=False))


@command.command("remove")
@options.endpoint
@click.argument("names", nargs=-1, required=True)
def remove(socket: str, names: tuple[str, ...]) -> None:
    """Remove images with all of their names; one that is not here is no error."""
    with client.connect(socket) as daemon:
        for name in names:
            daemon.image.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=name)))


@command.command("verify")
@options.endpoint
@click.option("--repair", is_flag=True, help="Fetch what is damaged again, from where it was pulled.")
@click.option("--username", help="For a registry that asks for one.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.argument("names", nargs=-1)
def verify(
    socket: str, repair: bool, username: str | None, password_stdin: bool, names: tuple[str, ...]
) -> None:
    """Check the layers of images on disk, or all layers; exit code 1 if one stays damaged."""
    if bool(username) != password_stdin:
        raise click.UsageError("--username and --password-stdin belong together")
    request = own.VerifyRequest(names=names, repair=repair, username=username or "")
    if username:
        request.password = sys.stdin.readline().rstrip("\r\n")
    checked = damaged = mended = 0
    with client.connect(socket) as daemon:
        for found in daemon.files.Verify(request):
            checked, mended = checked + 1, mended + found.mended
            damaged += bool(found.problems) and not found.mended
            if found.problems:
                _show_verdict(found)
    click.echo(f"{checked} layers checked, {damaged} damaged, {mended} mended")
    if damaged:
        sys.exit(1)


def _show_verdict(found: own.LayerVerdict) -> None:
    state = "mended" if found.mended else "damaged"
    click.echo(f"{output.short_id(found.diff_id)} {state}: {', '.join(found.images) or 'of no image'}")
    for problem in found.problems:
        click.echo(f"  {problem}")
    if found.reason:
        click.echo(f"  not mended: {found.reason}")
    if found.containers:
        ids = ", ".join(map(output.short_id, found.containers))
        click.echo(f"  containers that use it, to be started again: {ids}")
