"""What an init child tells the daemon on its ``sync`` socket, and errors that cross a process border.

    child                                    daemon
      | warning --------------------------->  |  logged
      | doing ----------------------------->  |  what may take for ever, such as to open a volume; empty: done
      | fds + descriptors ----------------->  |  sockets of a network namespace, a terminal
      | held ------------------------------>  |
      | <-------------------------------- go  |  one byte; EOF instead means: exit
      | error ----------------------------->  |  raised there as the class it was here
      | EOF                                   |  execve has happened, or a plan without a program is done

One message is one packet of JSON.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

from shim import errors
from shim.kernel import unix

# What a kubelet knows errors of volumes by: these texts begin them, whatever was being done.
IMAGE_VOLUME: Final = "ImageVolumeMountFailed: "
READ_ONLY: Final = "RROUnsupported: "


def send(fd: int, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message on a socket that is known by its descriptor."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        unix.send_message(sock, encode(message), fds)


def encode(message: dict[str, Any]) -> bytes:
    """Return the packet of a message."""
    return json.dumps(message).encode()


def decode(packet: bytes) -> dict[str, Any]:
    """Return the message of a packet.

    Raises:
        Internal: it is none.
    """
    try:
        message = json.loads(packet)
    except ValueError as error:
        raise errors.Internal(f"an init child sent what is no message: {error}") from None
    if not isinstance(message, dict) or "type" not in message:
        raise errors.Internal("an init child sent a message without a type")
    return message


def encode_error(error: BaseException, stage: str = "") -> dict[str, Any]:
    """Return an error as a message; ``stage`` is what was being done, empty where that goes without saying.

    Every error that crosses a process border has this one form. A class that is not one of ``shim.errors``
    travels as its base among them, or as ``Internal``.
    """
    message: dict[str, Any] = {"type": "error", "message": str(error), "stage": stage}
    if isinstance(error, OSError):
        path = error.filename
        return message | {
            "class": "KernelError",
            "syscall": getattr(error, "syscall", ""),
            "errno": error.errno or errno.EIO,
            "path": os.fsdecode(path) if isinstance(path, str | bytes) else None,
        }
    message["class"] = _class_name(error)
    if isinstance(error, errors.NotFound):
        message |= {"kind": error.kind, "name": error.name}
    if isinstance(error, errors.ExecFailed):
        message["exit_code"] = error.exit_code
    if message["class"] == "Internal" and not isinstance(error, errors.ShimError):
        message["message"] = f"{type(error).__name__}: {error}"
    return message


def decode_error(message: dict[str, Any]) -> Exception:
    """Return the error of a message as the class that it had in the other process."""
    name, stage, text = message.get("class", ""), message.get("stage", ""), message.get("message", "")
    if name == "KernelError":
        return errors.KernelError(
            message.get("syscall", ""), int(message.get("errno", errno.EIO)), message.get("path"), stage
        )
    if name == "ExecFailed":
        return errors.ExecFailed(text, int(message.get("exit_code", 127)))
    if name == "NotFound":
        return errors.NotFound(message.get("kind", ""), message.get("name", ""))
    known = getattr(errors, name, None)
    plain = not stage or text.startswith((IMAGE_VOLUME, READ_ONLY))
    whole = text if plain else f"cannot {stage}: {text}"
    if isinstance(known, type) and issubclass(known, errors.ShimError):
        return known(whole)
    return errors.Internal(whole)


def _class_name(error: BaseException) -> str:
    for cls in type(error).__mro__:
        if getattr(errors, cls.__name__, None) is cls and cls is not errors.ShimError:
            return str(cls.__name__)
    return "Internal"
