"""Steps that turn a fresh process into a container, as data.

A plan is a list of them; ``runtime.init`` carries them out in order. A step says what it does (``describe``,
which every error of it names) and does it (``execute``). Steps are registered by class name, since a plan
crosses to the child as JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from shim.errors import Internal
from shim.runtime.context import Context

_REGISTRY: dict[str, type[Step]] = {}

T = TypeVar("T", bound="type[Step]")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to the kernel on the way to execve; fields are text, numbers, flags or tuples."""

    SAYS: ClassVar[str] = ""

    def describe(self) -> str:
        """Return what it does, as one line of a log or error."""
        return self.SAYS

    def execute(self, context: Context) -> None:
        """Do it. Raises KernelError, or another error that a caller can act on."""
        raise Internal(f"{type(self).__name__} says nothing of how it is done")


def step(cls: T) -> T:
    """Make a class known as a step."""
    _REGISTRY[cls.__name__] = cls
    return cls


def encode_step(value: Step) -> list[Any]:
    """Return a step as JSON values: its name, then its fields in order."""
    return [type(value).__name__, *(getattr(value, field.name) for field in dataclasses.fields(value))]


def decode_step(value: list[Any]) -> Step:
    """Return the step of JSON values.

    Raises:
        Internal: this version knows no such step, or its fields differ.
    """
    name, *values = value
    cls = _REGISTRY.get(name)
    if cls is None or len(values) != len(dataclasses.fields(cls)):
        raise Internal(
            f"the plan has a step {name!r} that this version does not know: restart the supervisor"
        )
    return cls(*map(_tuples, values))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
