"""What the call under way does, stage by stage: names, durations, and where it failed.

Whoever serves a call begins an *operation*; whatever lies below says ``with stage("network"):`` around a part
that may take time or fail, and knows nothing of who wants to know. Without an operation a stage costs nothing
but a look. Context variables carry both into the tasks that a call starts, not into threads: a stage stands
around the ``await`` of a thread's work.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

SEPARATOR: Final = " > "
_MOST: Final = 200  # of one operation: an image of very many layers


@dataclass(slots=True)
class Stage:
    """One part of an operation.

    Attributes:
        path: the names of the stages around it and its own, joined by ``SEPARATOR``.
        began_ns: nanoseconds since the epoch.
        took_ns: nanoseconds; -1 while it is under way.
    """

    path: str
    began_ns: int
    took_ns: int = -1
    failed: bool = False

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.rpartition(SEPARATOR)[2]

    @property
    def depth(self) -> int:
        """How many stages are around it."""
        return self.path.count(SEPARATOR)


@dataclass(slots=True)
class Operation:
    """A call, with what it has done so far.

    Attributes:
        began_ns: nanoseconds since the epoch. Stages count from it by a clock that nobody sets.
        stages: in the order in which they began.
    """

    began_ns: int = field(default_factory=time.time_ns)
    stages: list[Stage] = field(default_factory=list)
    _began: int = field(default_factory=time.monotonic_ns)
    _failure: tuple[BaseException, str] | None = None

    def now_ns(self) -> int:
        """Return the time, in nanoseconds since the epoch, such that later is never less."""
        return self.began_ns + time.monotonic_ns() - self._began

    def failed_at(self, error: BaseException) -> str:
        """Return the path of the stage that ``error``, or what it was raised from, came from; else empty."""
        if self._failure is None:
            return ""
        return self._failure[1] if _is_from(error, self._failure[0]) else ""

    def note_failure(self, error: BaseException, path: str) -> None:
        """Remember that ``error`` left a stage; the innermost stage of one failure counts."""
        if self._failure is not None and _is_from(error, self._failure[0]):
            self._failure = (error, self._failure[1])
        else:
            self._failure = (error, path)


_operation: ContextVar[Operation | None] = ContextVar("operation", default=None)
_path: ContextVar[str] = ContextVar("stage", default="")


@contextlib.contextmanager
def operation() -> Iterator[Operation]:
    """Begin an operation: stages within the context are its own."""
    begun = Operation()
    operation_token, path_token = _operation.set(begun), _path.set("")
    try:
        yield begun
    finally:
        # A stream whose caller leaves is closed in another context, which has nothing to reset.
        with contextlib.suppress(ValueError):
            _operation.reset(operation_token)
            _path.reset(path_token)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Name what happens within the context. Does nothing outside of operations."""
    current = _operation.get()
    if current is None or len(current.stages) >= _MOST:
        yield
        return
    outer = _path.get()
    path = f"{outer}{SEPARATOR}{name}" if outer else name
    this = Stage(path, current.now_ns())
    current.stages.append(this)
    token = _path.set(path)
    try:
        yield
    except BaseException as error:
        this.failed = True
        current.note_failure(error, path)
        raise
    finally:
        this.took_ns = current.now_ns() - this.began_ns
        with contextlib.suppress(ValueError):
            _path.reset(token)


def _is_from(error: BaseException | None, origin: BaseException) -> bool:
    """Tell whether ``error`` is ``origin`` or was raised while ``origin`` was handled."""
    for _ in range(8):  # a chain may lead in a circle
        if error is None or error is origin:
            return error is origin
        error = error.__cause__ or error.__context__
    return False
