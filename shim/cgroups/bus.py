"""Talk with systemd over D-Bus: transient scopes, and their limits. Blocking.

A job is under way when the method that asked for it has answered; its end is a signal, which is asked for
before the job is. Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import jeepney
from jeepney.io import blocking

from shim.cgroups.properties import Property
from shim.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable

_MANAGER: Final = jeepney.DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
)
_ANSWER_S: Final = 30.0
_DONE: Final = "done"
_ERRORS: Final = {
    "org.freedesktop.systemd1.UnitExists": AlreadyExists,
    "org.freedesktop.systemd1.NoSuchUnit": NotFound,
    "org.freedesktop.DBus.Error.InvalidArgs": InvalidArgument,
    "org.freedesktop.DBus.Error.PropertyReadOnly": InvalidArgument,
}


class Systemd:
    """The manager of the system. May be used by several threads: each call has a connection to itself."""

    def __init__(self) -> None:
        self._idle: deque[blocking.DBusConnection] = deque()

    def version(self) -> int:
        """Return its version, without what a distribution adds.

        Raises:
            Unavailable: no bus, or nobody answers there.
        """
        with self._connection() as connection:
            get = jeepney.Properties(_MANAGER).get("Version")
            text = str(_answer(connection, get, "its version")[0][1])
        number = re.match(r"v?(\d+)", text)
        return int(number[1]) if number else 0

    def start_scope(self, name: str, properties: Sequence[Property]) -> None:
        """Start a scope; return when it is there.

        Raises:
            AlreadyExists: there is a unit of that name. InvalidArgument: a property makes no sense to it.
            Unavailable: it cannot be asked, or could not start it.
        """
        nothing_beside: list[object] = []
        body = (name, "fail", list(properties), nothing_beside)
        with self._connection() as connection, _ends(connection, name) as ends:
            _ask(connection, name, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)
            try:
                result = connection.recv_until_filtered(ends, timeout=_ANSWER_S).body[3]
            except TimeoutError:
                raise Unavailable(f"systemd did not start {name} in {_ANSWER_S:.0f} s") from None
        if result != _DONE:
            raise Unavailable(f"systemd could not start {name}: its job ended as {result!r}; see the journal")

    def set_properties(self, name: str, properties: Sequence[Property]) -> None:
        """Change limits of a unit until the next boot.

        Raises:
            NotFound: there is no such unit. InvalidArgument: a property makes no sense to it.
            Unavailable: it cannot be asked.
        """
        with self._connection() as connection:
            body = (name, True, list(properties))
            _ask(connection, name, "SetUnitProperties", "sba(sv)", body)

    def stop(self, name: str) -> None:
        """Have a unit stop, and be forgotten; does not wait for its end. Idempotent.

        Raises:
            Unavailable: it cannot be asked.
        """
        with self._connection() as connection:
            for member, signature, body in (
                ("StopUnit", "ss", (name, "replace")),
                ("ResetFailedUnit", "s", (name,)),
            ):
                with contextlib.suppress(NotFound):
                    _ask(connection, name, member, signature, body)

    def close(self) -> None:
        """Close what is not in use."""
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[blocking.DBusConnection]:
        """Give a connection that worked the last time, or a new one; one with a fault is not kept."""
        connection = None
        with contextlib.suppress(IndexError):
            connection = self._idle.pop()
        if connection is not None and not _lives(connection):
            connection.close()
            connection = None
        connection = connection or _connect()
        try:
            yield connection
        except (AlreadyExists, NotFound, InvalidArgument):
            self._idle.append(connection)
            raise
        except OSError as error:
            connection.close()
            raise Unavailable(f"the connection to systemd over D-Bus broke: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)


def _connect() -> blocking.DBusConnection:
    connection = None
    try:
        connection = blocking.open_dbus_connection(bus="SYSTEM", auth_timeout=_ANSWER_S)
        _answer(connection, jeepney.new_method_call(_MANAGER, "Subscribe"), "its signals")
    except (OSError, jeepney.AuthenticationError, Unavailable) as error:
        if connection is not None:
            connection.close()
        raise Unavailable(f"systemd cannot be reached over D-Bus: {error}") from error
    return connection


def _lives(connection: blocking.DBusConnection) -> bool:
    """Read what has come meanwhile; nothing has been asked, so that none of it is an answer."""
    try:
        while True:
            connection.receive(timeout=0)
    except TimeoutError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _ends(connection: blocking.DBusConnection, name: str) -> Iterator[deque[Any]]:
    """Collect the ends of a unit's jobs."""
    rule = jeepney.MatchRule(
        type="signal", interface=_MANAGER.interface, member="JobRemoved", path=_MANAGER.object_path
    )
    rule.add_arg_condition(2, name)
    _answer(connection, jeepney.message_bus.AddMatch(rule), name)
    with connection.filter(rule) as ends:
        try:
            yield ends
        finally:
            with contextlib.suppress(OSError, Unavailable):
                _answer(connection, jeepney.message_bus.RemoveMatch(rule), name)


def _ask(connection: blocking.DBusConnection, name: str, member: str, signature: str, body: Any) -> Any:
    message = jeepney.new_method_call(_MANAGER, member, signature, body)
    return _answer(connection, message, f"{member} of {name}")


def _answer(connection: blocking.DBusConnection, message: jeepney.Message, what: str) -> Any:
    """Return the body of an answer, or raise its error as one of ours."""
    try:
        reply = connection.send_and_get_reply(message, timeout=_ANSWER_S)
    except TimeoutError:
        raise Unavailable(f"systemd does not answer ({what}) in {_ANSWER_S:.0f} s") from None
    if reply.header.message_type is not jeepney.MessageType.error:
        return reply.body
    name = reply.header.fields.get(jeepney.HeaderFields.error_name, "")
    text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else name
    kind = _ERRORS.get(name, Unavailable)
    if kind is NotFound:
        raise NotFound("systemd unit", what)
    raise kind(f"systemd refuses {what}: {text}")
