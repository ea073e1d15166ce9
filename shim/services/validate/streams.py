"""Whether an Exec, Attach or PortForward can be carried out at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shim.errors import InvalidArgument
from shim.model.streams import StreamOptions

MAX_PORT: Final = 65535
MAX_SIZE: Final = 65535  # rows or columns, struct winsize of ioctl_tty(2)


def check_options(options: StreamOptions) -> None:
    """Check which streams are asked for.

    Raises:
        InvalidArgument: none, or stderr beside a terminal, which has but one output.
    """
    if options.tty and options.stderr:
        raise InvalidArgument("tty and stderr cannot both be true: a terminal has one output")
    if not (options.stdin or options.stdout or options.stderr):
        raise InvalidArgument("none of stdin, stdout and stderr is true: at least one must be")


def check_ports(ports: Iterable[int]) -> None:
    """Check port numbers.

    Raises:
        InvalidArgument: one is none.
    """
    for port in ports:
        if not 0 < port <= MAX_PORT:
            raise InvalidArgument(f"{port} is not a port: these are 1 to {MAX_PORT}")


def check_size(width: int, height: int) -> None:
    """Check the size of a terminal, in characters.

    Raises:
        InvalidArgument: the kernel cannot take it.
    """
    if not (0 <= width <= MAX_SIZE and 0 <= height <= MAX_SIZE):
        raise InvalidArgument(f"a terminal cannot have {width} columns and {height} rows")
