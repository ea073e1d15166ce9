"""What a container runs: program, environment and directory by the rules of the OCI image format. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig, EnvVar
from shim.model.image import ImageConfig

DEFAULT_PATH: Final = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def resolve_argv(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """Return program and arguments.

    A command in the request replaces the image's entrypoint and drops its cmd; arguments in the request
    replace its cmd only.

    Raises:
        InvalidArgument: neither names a program.
    """
    entrypoint = () if image.entrypoint == ("",) else image.entrypoint
    image_argv = (*entrypoint, *(config.args or image.cmd))
    argv = (*config.command, *config.args) if config.command else image_argv
    if not argv:
        raise InvalidArgument("no command: neither the request nor the image names one")
    return argv


def resolve_env(config: ContainerConfig, image: ImageConfig, hostname: str) -> tuple[bytes, ...]:
    """Return ``KEY=value`` entries: ours, the image's, the request's; of equal keys the last wins."""
    ours = [DEFAULT_PATH, b"HOSTNAME=" + hostname.encode()]
    if config.tty:
        ours.append(b"TERM=xterm")
    theirs = [entry.encode("utf-8", "surrogateescape") for entry in image.env if "=" in entry]
    return _last_wins([*ours, *theirs, *map(_entry, config.envs)])


def add_env(env: tuple[bytes, ...], entries: Iterable[str]) -> tuple[bytes, ...]:
    """Return ``env`` with further ``KEY=value`` entries, which go before equal keys in it."""
    return _last_wins([*env, *(entry.encode("utf-8", "surrogateescape") for entry in entries)])


def resolve_cwd(config: ContainerConfig, image: ImageConfig) -> str:
    """Return the absolute directory to start in."""
    cwd = config.working_dir or image.working_dir or "/"
    return cwd if cwd.startswith("/") else "/" + cwd


def add_home(env: tuple[bytes, ...], home: str) -> tuple[bytes, ...]:
    """Return ``env`` with HOME of the user's passwd entry, where nothing set it."""
    if any(entry.startswith(b"HOME=") for entry in env):
        return env
    return (*env, b"HOME=" + (home or "/").encode("utf-8", "surrogateescape"))


def _entry(variable: EnvVar) -> bytes:
    return variable.key.encode("utf-8", "surrogateescape") + b"=" + variable.value


def _last_wins(entries: Iterable[bytes]) -> tuple[bytes, ...]:
    by_key: dict[bytes, bytes] = {}
    for entry in entries:
        by_key[entry.partition(b"=")[0]] = entry
    return tuple(by_key.values())
