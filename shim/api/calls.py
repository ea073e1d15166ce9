"""Which call is being served, so that every log line of it can name its ids."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from shim import stages

log = logging.getLogger(__name__)

# Field of a request to the name it has in a log line.
_IDS: Final = {"pod_sandbox_id": "sandbox", "container_id": "container"}

# Asked for again and again by every kubelet; told at level debug only.
_QUIET: Final = ("List", "Stream", "Status", "Version", "ImageFsInfo", "RuntimeConfig", "ExecSync")
_QUIET_ENDS: Final = ("Status", "Stats")

# Message class to those of its fields that name something.
_FIELDS: Final[dict[type, tuple[str, ...]]] = {}

# Fields of an answer that name what was made.
_MADE: Final = ("pod_sandbox_id", "container_id", "image_ref")


@dataclass(slots=True)
class Call:
    """A call under way, and how it has ended.

    Attributes:
        fields: ``method`` and what the request names, see ``describe``.
        context: gRPC's, with the metadata that the client sent; None in tests.
        answer: what it returned; None while it is under way, where it failed, and of streams.
        error: why it failed; a ``CancelledError`` where the caller left.
    """

    fields: Mapping[str, str]
    operation: stages.Operation
    context: Any = None
    answer: object = None
    error: BaseException | None = None
    took_ns: int = 0

    @property
    def method(self) -> str:
        """The name of the method, without its service."""
        return self.fields["method"]

    @property
    def made(self) -> tuple[str, ...]:
        """The ids that the answer names."""
        return tuple(id_ for name in _MADE if (id_ := getattr(self.answer, name, "")))


# Called when a call begins; what it returns is called when the call has ended.
Observer = Callable[[Call], Callable[[Call], None] | None]

_current: ContextVar[Mapping[str, str] | None] = ContextVar("call", default=None)


def current() -> Mapping[str, str]:
    """Return the fields of the call under way: ``method`` and the ids it names; empty outside of calls."""
    return _current.get() or {}


def describe(method: str, request: Any) -> dict[str, str]:
    """Return ``method`` and the ids that ``request`` names."""
    fields = {"method": method}
    for field in _fields(type(request)):
        if field in _IDS:
            value = getattr(request, field)
            if value:
                fields[_IDS[field]] = value
        elif field == "image":
            fields["image"] = request.image.image
        elif field == "config":
            fields["name"] = _name(request.config.metadata)
        elif field == "sandbox_config" and request.HasField(field) and "sandbox" not in fields:
            fields["pod"] = _name(request.sandbox_config.metadata)
    return fields


def _name(metadata: Any) -> str:
    return f"{metadata.namespace}/{metadata.name}" if hasattr(metadata, "namespace") else metadata.name


def _fields(kind: type) -> tuple[str, ...]:
    known = _FIELDS.get(kind)
    if known is None:
        descriptor = getattr(kind, "DESCRIPTOR", None)
        names = descriptor.fields_by_name if descriptor is not None else {}
        known = tuple(name for name in (*_IDS, "image", "config", "sandbox_config") if name in names)
        _FIELDS[kind] = known
    return known


@contextlib.contextmanager
def enter(
    method: str, request: Any, observers: Sequence[Observer] = (), context: Any = None
) -> Iterator[Call]:
    """Make ``method`` on ``request`` the current call; log it with its duration and tell observers of it."""
    fields = describe(method, request)
    token = _current.set(fields)
    began_ns = time.monotonic_ns()
    with stages.operation() as operation:
        call = Call(fields, operation, context)
        enders = [end for observer in observers if (end := observer(call)) is not None]
        try:
            yield call
        except BaseException as error:
            call.error = call.error or error
            raise
        finally:
            call.took_ns = time.monotonic_ns() - began_ns
            for end in enders:
                end(call)
            _leave(token, call)


def _leave(token: Any, call: Call) -> None:
    # A stream whose caller leaves is closed in another context, which has nothing to reset.
    with contextlib.suppress(ValueError):
        _current.reset(token)
    quiet = call.method.startswith(_QUIET) or call.method.endswith(_QUIET_ENDS)
    level = logging.DEBUG if quiet else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "%s took %.1f ms", " ".join(call.fields.values()), call.took_ns / 1e6)
