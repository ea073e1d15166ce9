"""Every error a caller can act on.

* ShimError
    * NotFound
    * AlreadyExists
    * InvalidArgument
    * FailedPrecondition
        * StateError
        * ExecFailed (the user's program could not be started; carries the exit code)
    * DeadlineExceeded
    * ResourceExhausted
    * Unavailable
    * Unimplemented
    * RegistryUnavailable, SignatureValidationFailed (code UNKNOWN, as the kubelet wants them)
    * Internal
* KernelError (an OSError: the kernel said no)

The code of each is in ``api/status.py`` and nowhere else.
"""

from __future__ import annotations

import os


class ShimError(Exception):
    """Base class. Raise a subclass: the class, never the text, is what callers test."""


class NotFound(ShimError):
    """The sandbox, container, image or blob is unknown here."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} not found")
        self.kind = kind
        self.name = name


class AlreadyExists(ShimError):
    """The name or id is taken."""


class InvalidArgument(ShimError):
    """The request can never succeed as written."""


class FailedPrecondition(ShimError):
    """The request is right, the state is wrong."""


class StateError(FailedPrecondition):
    """An event that the current state does not accept."""


class ExecFailed(FailedPrecondition):
    """The program of a container or exec could not be started: it is missing or may not be run.

    Attributes:
        exit_code: 127 where the program does not exist, else 126, as a shell reports it.
    """

    def __init__(self, message: str, exit_code: int = 127) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DeadlineExceeded(ShimError):
    """The time the caller gave is over."""


class ResourceExhausted(ShimError):
    """Something finite is used up: no address, no disk space, no port."""


class Unavailable(ShimError):
    """Try again later."""


class Unimplemented(ShimError):
    """This program does not do that."""


class RegistryUnavailable(ShimError):
    """The registry did not answer."""


class SignatureValidationFailed(ShimError):
    """The signature of an image is missing or wrong."""


class Internal(ShimError):
    """A bug here."""


class KernelError(OSError):
    """A system call failed.

    Attributes:
        syscall: name as in section 2 of the manual, such as ``mount``; may be empty.
        errno, filename: as in OSError.
        doing: what was being done, as it goes on after "cannot"; may be empty.
    """

    def __init__(self, syscall: str, errno: int, path: str | None = None, doing: str = "") -> None:
        super().__init__(errno, os.strerror(errno), path)
        self.syscall = syscall
        self.doing = doing

    def __str__(self) -> str:
        parts = (f"cannot {self.doing}" if self.doing else "", self.syscall, super().__str__())
        return ": ".join(part for part in parts if part)
