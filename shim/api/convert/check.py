"""Tests of what a message can hold and the model cannot; values are judged by ``services.validate``."""

from __future__ import annotations

import enum
from typing import Any, TypeVar

from shim import errors

E = TypeVar("E", bound=enum.IntEnum)


def given(text: str, field: str) -> str:
    """Return ``text``, which must not be empty.

    Raises:
        InvalidArgument: it is.
    """
    if not text:
        raise errors.InvalidArgument(f"{field} must not be empty")
    return text


def member(kind: type[E], value: int, field: str) -> E:
    """Return ``value`` as a member of ``kind``: an enum field of a message can hold any number.

    Raises:
        InvalidArgument: ``kind`` has no such member.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(int(each)) for each in kind)
        raise errors.InvalidArgument(f"{field} is {value}, which is none of {known}") from None


def wire(value: int) -> Any:
    """Return ``value`` for an enum field: a number at run time, a class of its own to the type checker."""
    return int(value)
