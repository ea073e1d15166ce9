"""What daemon, supervisor and logger say to each other. Sans-IO: values to bytes and back.

    daemon                              supervisor                             logger
      | hello ----------------------------> |                                     |
      | <---------------------------- reply |                                     |
      | fork + fds -----------------------> |  fork(2), announcement of stage 1    |
      |                                     | adopt + fds ----------------------> |   (containers only)
      | <------ child + pidfd, tty (forked) |                                     |
      | list -----------------------------> |                                     |
      | <-- child + fds, ... child, reply   | list (a new supervisor takes back)-> |
      |                                     | <-- child + fds, ... child, reply   |
      | adopt + fds (to a new supervisor)-> | adopt + fds ----------------------> |
      | <---------------------------- reply |                                     |
      | reopen | drain -------------------> | the same, passed on --------------> |
      | <---------------------------- reply | <---------------------------- reply |
      | attach + fds | closestdin --------> | the same, passed on --------------> |  (copies output)
      | <---------------------------- reply | <---------------------------- reply |
      | kill | forget --------------------> | forget ---------------------------> |
      | <---------------------------- reply |                                     |
      | upgrade + executable -------------> |  execve of itself                   |
      | <---------------------------- reply | shutdown (the new one's code) ----> |
      | <--- exited (a hint: read records)  |                                     |

One message is one packet of a SOCK_SEQPACKET socket: a JSON object of at most 64 KiB, whose ``type`` is the
class name in lower case. Descriptors travel with it as SCM_RIGHTS; ``names`` says which is which, in order.
Every request carries a ``seq`` of the asker's choice, and exactly one ``reply`` (or, for ``fork``, one
``child``) carries it back. An unknown field is ignored, so that an older end understands a newer one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final, TypeVar

from shim import errors
from shim.model.container import ExitRecord
from shim.runtime import wire

VERSION: Final = 1
MAX_BYTES: Final = 64 * 1024
MAX_FDS: Final = 32

CONTAINER: Final = "container"
EXEC: Final = "exec"
NAMESPACES: Final = "namespaces"
INIT: Final = "init"
KINDS: Final = (CONTAINER, EXEC, NAMESPACES, INIT)

DEFAULT_MAX_LINE: Final = 16 * 1024


class ProtocolError(errors.Internal):
    """The peer sent what is no message."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where a container's output goes.

    Attributes:
        path: absolute path of the CRI log file; empty: output is read, shown to attached clients and dropped.
        tty: the output comes from one terminal (stream ``stdout``) instead of two pipes.
        max_line: longest content of one log line in bytes; what is longer is split (tag P).
    """

    path: str = ""
    tty: bool = False
    max_line: int = DEFAULT_MAX_LINE


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One process that the supervisor looks after.

    Attributes:
        kind: one of KINDS.
        pid: in the host's pid namespace; 0 for a plan without a second stage.
        start_time: field 22 of /proc/PID/stat.
        serial: rises with each child; the order and the page mark of ``list``.
        adopted: it is not a child of this supervisor, but was taken over from one that died.
        oom_kills: as last notified by the kernel.
        record: its end, once it has ended.
    """

    id: str
    kind: str
    pid: int
    start_time: int
    serial: int = 0
    log: LogConfig | None = None
    adopted: bool = False
    oom_kills: int = 0
    record: ExitRecord | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a connection."""

    seq: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a process. fds: see ``fdstore``; ``plan`` and ``sync`` always."""

    seq: int
    id: str
    kind: str
    names: tuple[str, ...]
    log: LogConfig | None = None


@dataclass(frozen=True, slots=True)
class List:
    """Tell children with a serial above ``after``, at most ``limit``; the reply says if there are more."""

    seq: int
    after: int = 0
    limit: int = 16


@dataclass(frozen=True, slots=True)
class Child:
    """One child with its descriptors: answer to ``fork``, element of the answer to ``list``."""

    seq: int
    child: ChildInfo
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take over a process (supervisor) or its output (logger), with the descriptors named."""

    seq: int
    child: ChildInfo
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a child's descriptors and its record. Idempotent."""

    seq: int
    id: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill a child and everything in its cgroup. Idempotent.

    Attributes:
        unborn: also one that is not announced yet, because its first stage hangs.
    """

    seq: int
    id: str
    unborn: bool = False


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open the log file again; the reply comes when it exists."""

    seq: int
    id: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Write what the pipes hold now; the reply comes when it is in the log file."""

    seq: int
    id: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Copy what a container writes from now on to the sockets named ``stdout`` and ``stderr``.

    Each is closed when the container has closed that stream, or when its reader is too far behind.
    """

    seq: int
    id: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CloseStdin:
    """Let a container read the end of its input: close every copy of ``stdin_write``. Idempotent."""

    seq: int
    id: str


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Replace the program by execve of ``executable`` (the one fd) with ``argv``; children stay."""

    seq: int
    argv: tuple[str, ...]
    names: tuple[str, ...] = ("executable",)


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End. Refused while there are children, unless forced: then they live on without a parent."""

    seq: int
    force: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to the request with the same ``seq``.

    Attributes:
        failure: of ``failure_of``; empty: it went well.
        more: there is more to ``list``.
        pid, release: of who answers to ``hello``.
        dropped_bytes: what a ``drain`` could not write.
    """

    seq: int
    failure: str = ""
    more: bool = False
    version: int = VERSION
    pid: int = 0
    release: str = ""
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Exited:
    """A child ended. A hint: the record is on tmpfs already."""

    record: ExitRecord


Message = (
    Hello
    | Fork
    | List
    | Child
    | Adopt
    | Forget
    | Kill
    | Reopen
    | Drain
    | Attach
    | CloseStdin
    | Upgrade
    | Shutdown
    | Reply
    | Exited
)
_MESSAGES: Final[Mapping[str, type]] = {
    c.__name__.lower(): c
    for c in (
        Hello,
        Fork,
        List,
        Child,
        Adopt,
        Forget,
        Kill,
        Reopen,
        Drain,
        Attach,
        CloseStdin,
        Upgrade,
        Shutdown,
        Reply,
        Exited,
    )
}
_NESTED: Final[Mapping[str, type]] = {
    "LogConfig | None": LogConfig,
    "ChildInfo": ChildInfo,
    "ExitRecord | None": ExitRecord,
    "ExitRecord": ExitRecord,
}
_PLAIN: Final[Mapping[str, type]] = {"int": int, "str": str, "bool": bool}
_Value = TypeVar("_Value")


def encode(message: Message) -> bytes:
    """Return the packet for a message.

    Raises:
        ProtocolError: it does not fit into a packet.
    """
    kind = type(message).__name__.lower()
    data = json.dumps({"type": kind} | to_fields(message), default=to_fields, separators=(",", ":")).encode()
    if len(data) > MAX_BYTES:
        raise ProtocolError(f"cannot send {kind!r}: {len(data)} bytes are more than {MAX_BYTES}")
    return data


def decode(data: bytes) -> Message:
    """Return the message in a packet.

    Raises:
        ProtocolError: it is none, or one of its fields is missing or has the wrong type.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ProtocolError(f"a packet of {len(data)} bytes is not JSON: {error}") from None
    if not isinstance(value, dict) or value.get("type") not in _MESSAGES:
        raise ProtocolError(f"a packet of {len(data)} bytes is no message known here")
    message: Message = from_fields(_MESSAGES[value["type"]], value)
    return message


def to_fields(value: Any) -> dict[str, Any]:
    """Return the fields of one of this module's values, one level deep."""
    return {f: getattr(value, f) for f in value.__slots__}


def from_fields(cls: type[_Value], value: Any) -> _Value:
    """Build ``cls``, one of this module's dataclasses or an ExitRecord, from decoded JSON.

    Raises:
        ProtocolError: a field is missing or has the wrong type.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"{cls.__name__} is not an object")
    arguments = {}
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name in value:
            arguments[field.name] = _checked(cls, field.name, str(field.type), value[field.name])
        elif field.default is MISSING:
            raise ProtocolError(f"{cls.__name__} lacks {field.name!r}")
    return cls(**arguments)


def _checked(cls: type, name: str, annotation: str, value: Any) -> Any:
    if annotation in _PLAIN and type(value) is _PLAIN[annotation]:
        return value
    if annotation in _NESTED:
        if value is None and annotation.endswith("None"):
            return None
        return from_fields(_NESTED[annotation], value)
    if annotation.startswith("tuple") and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise ProtocolError(f"{cls.__name__}.{name} is not {annotation}")


def with_seq(message: _Value, seq: int) -> _Value:
    """Return a message with another ``seq``, as it is passed on."""
    copy: _Value = replace(message, seq=seq)  # type: ignore[type-var]
    return copy


def failure_of(error: BaseException) -> str:
    """Return an error in the form in which it travels (``runtime.wire``)."""
    return json.dumps(wire.encode_error(error))


def error_of(failure: str) -> Exception:
    """Return the error that a failure tells of, of the same class."""
    return wire.decode_error(json.loads(failure))
