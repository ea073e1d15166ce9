"""Errors and messages that cross a process border."""

from __future__ import annotations

import json

import pytest

from shim import errors
from shim.runtime import wire


def crossed(error: BaseException, stage: str = "") -> Exception:
    return wire.decode_error(json.loads(json.dumps(wire.encode_error(error, stage))))


CLASSES = sorted(
    (
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type)
        and issubclass(cls, errors.ShimError)
        and cls not in (errors.ShimError, errors.NotFound)
    ),
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_keeps_its_class_and_text(cls: type[errors.ShimError]) -> None:
    error = crossed(cls("the reason"))
    assert type(error) is cls
    assert str(error) == "the reason"


def test_not_found_keeps_what_was_looked_for() -> None:
    error = crossed(errors.NotFound("container", "abc"))
    assert isinstance(error, errors.NotFound)
    assert (error.kind, error.name, str(error)) == ("container", "abc", "container 'abc' not found")


def test_a_kernel_error_keeps_call_errno_and_path() -> None:
    error = crossed(errors.KernelError("mount", 13, "/proc"), "mount proc")
    assert isinstance(error, errors.KernelError)
    assert (error.syscall, error.errno, error.filename) == ("mount", 13, "/proc")
    assert str(error) == "cannot mount proc: mount: [Errno 13] Permission denied: '/proc'"


def test_an_oserror_arrives_as_kernel_error() -> None:
    error = crossed(PermissionError(13, "denied", b"/x\xff"), "write")
    assert isinstance(error, errors.KernelError)
    assert error.errno == 13


def test_an_exit_code_is_kept() -> None:
    error = crossed(errors.ExecFailed("exec: permission denied", 126), "execute")
    assert isinstance(error, errors.ExecFailed)
    assert (error.exit_code, str(error)) == (126, "exec: permission denied")


def test_the_stage_is_named() -> None:
    assert str(crossed(errors.InvalidArgument("too long"), "set it")) == "cannot set it: too long"


def test_what_is_no_error_of_ours_is_internal_and_named() -> None:
    assert type(crossed(ValueError("x"))) is errors.Internal
    assert str(crossed(ValueError("x"))) == "ValueError: x"


def test_a_subclass_of_elsewhere_arrives_as_its_base() -> None:
    class Own(errors.Unavailable):
        pass

    assert type(crossed(Own("later"))) is errors.Unavailable


@pytest.mark.parametrize("packet", [b"", b"{", b"[]", b"{}"])
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(errors.Internal):
        wire.decode(packet)
