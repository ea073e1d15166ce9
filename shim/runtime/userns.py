"""User namespaces: made by a child that is born in one, since only its parent may say what ids mean there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from shim.errors import FailedPrecondition, Internal, InvalidArgument, KernelError
from shim.kernel import files, namespaces, process
from shim.runtime import wire
from shim.runtime.context import Context

# Tuples of (first id inside, first id outside, how many), as in /proc/PID/uid_map.
IdMap = tuple[tuple[int, int, int], ...]

_READY: Final = b"ready"
_MAX_BYTES: Final = 4096
_NONE_ALLOWED: Final = (errno.ENOSPC, errno.EUSERS, errno.EPERM, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Inhabitant:
    """A child that waits in namespaces of its own.

    Attributes:
        pid: as this process sees it.
        pidfd: the same.
    """

    pid: int
    pidfd: int


@contextmanager
def inhabited(uids: IdMap, gids: IdMap, kinds: tuple[str, ...] = ()) -> Iterator[Inhabitant]:
    """Make a user namespace, and others that it owns; they live as long as the context, or who holds them.

    Runs in: stage 1, as the host's root.

    Args:
        uids: what user ids mean there.
        gids: the same of group ids.
        kinds: further namespaces to make.

    Raises:
        FailedPrecondition: the node gives no user namespace.
        InvalidArgument: the kernel does not take the map.
    """
    go, ready = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    try:
        pid, pidfd = process.clone3(namespaces.CLONE_NEWUSER)
    except KernelError as error:
        for fd in (*go, *ready):
            os.close(fd)
        if error.errno not in _NONE_ALLOWED:
            raise
        raise FailedPrecondition(
            f"the node gives no user namespace: {error.strerror}; see /proc/sys/user/max_user_namespaces"
        ) from None
    if pid == 0:
        os.close(go[1])
        os.close(ready[0])
        _live(go[0], ready[1], kinds)
    os.close(go[0])
    os.close(ready[1])
    try:
        _write_map(pid, "uid_map", uids)
        _write_map(pid, "gid_map", gids)
        os.write(go[1], b"!")
        answer = os.read(ready[0], _MAX_BYTES)
        if answer != _READY:
            raise wire.decode_error(json.loads(answer or b"{}"))
        yield Inhabitant(pid, pidfd)
    finally:
        os.close(go[1])
        os.close(ready[0])
        os.close(pidfd)
        os.waitpid(pid, 0)


def become_root() -> None:
    """Become root of the user namespace that this process has joined; the host's root is nobody there."""
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.set_dumpable(False)


def run_beside(work: Callable[[], str], context: Context) -> str:
    """Run ``work`` in a child that shares this process's descriptors; return its answer.

    What it opens is open here, too; what it joins, or who it becomes, is its own affair.

    Args:
        work: may set ``context.stage``, which is set here too when it fails.
        context: of the caller.

    Raises:
        Exception: what ``work`` raised, of the same class.
    """
    answer = os.memfd_create("answer", os.MFD_CLOEXEC)
    pid, pidfd = process.clone3(process.CLONE_FILES)
    if pid == 0:
        try:
            message = {"type": "answer", "answer": work()}
        except BaseException as error:
            message = wire.encode_error(error, context.stage)
        files.write_all(answer, wire.encode(message))
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)
    with open(answer, "rb") as file:
        file.seek(0)
        data = file.read()
    if not data:
        raise Internal("a child that was to work beside a first stage died")
    message = wire.decode(data)
    if message["type"] == "answer":
        return str(message["answer"])
    context.stage = message["stage"]
    raise wire.decode_error(message | {"stage": ""})


def _live(go: int, ready: int, kinds: tuple[str, ...]) -> NoReturn:
    """Be root in the new user namespace first: what is made then belongs to it, down to each inode."""
    try:
        if os.read(go, 1):
            become_root()
            if kinds:
                namespaces.unshare(namespaces.flags_of(kinds))
            os.write(ready, _READY)
            os.read(go, 1)
    except BaseException as error:
        os.write(ready, json.dumps(wire.encode_error(error)).encode())
    finally:
        os._exit(0)


def _write_map(pid: int, name: str, ids: IdMap) -> None:
    path = f"/proc/{pid}/{name}"
    text = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ids)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EPERM):
            raise InvalidArgument(f"the kernel does not take the id map {ids}: {error.strerror}") from None
        raise KernelError("write", error.errno or errno.EIO, path) from None
