"""What a client asks of an exec or an attachment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Which streams are wanted.

    Attributes:
        tty: one terminal carries input and output; then there is no ``stderr``.
    """

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False
