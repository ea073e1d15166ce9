"""Which call is being served, so that every log line of it can name its ids."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

log = logging.getLogger(__name__)

# Field of a request to the name it has in a log line.
_IDS: Final = {"pod_sandbox_id": "sandbox", "container_id": "container"}

# Asked for again and again by every kubelet; told at level debug only.
_QUIET: Final = ("List", "Stream", "Status", "Version", "ImageFsInfo", "RuntimeConfig", "ExecSync")
_QUIET_ENDS: Final = ("Status", "Stats")

# Message class to those of its fields that name something.
_FIELDS: Final[dict[type, tuple[str, ...]]] = {}

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
            metadata = request.config.metadata
            name = metadata.name
            fields["name"] = f"{metadata.namespace}/{name}" if hasattr(metadata, "namespace") else name
    return fields


def _fields(kind: type) -> tuple[str, ...]:
    known = _FIELDS.get(kind)
    if known is None:
        descriptor = getattr(kind, "DESCRIPTOR", None)
        names = descriptor.fields_by_name if descriptor is not None else {}
        known = _FIELDS[kind] = tuple(name for name in (*_IDS, "image", "config") if name in names)
    return known


@contextlib.contextmanager
def enter(method: str, request: Any) -> Iterator[None]:
    """Make ``method`` on ``request`` the current call, and log it with its duration when it ends well."""
    fields = describe(method, request)
    token = _current.set(fields)
    began = time.monotonic()
    try:
        yield
    finally:
        # A stream whose caller leaves is closed in another context, which has nothing to reset.
        with contextlib.suppress(ValueError):
            _current.reset(token)
    quiet = method.startswith(_QUIET) or method.endswith(_QUIET_ENDS)
    level = logging.DEBUG if quiet else logging.INFO
    if log.isEnabledFor(level):
        took_ms = (time.monotonic() - began) * 1e3
        log.log(level, "%s took %.1f ms", " ".join(fields.values()), took_ms)
