"""Unix sockets that carry descriptors, and sealed memory files."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

_F_ADD_SEALS: Final = 1033
_ALL_SEALS: Final = 0xF  # seal, shrink, grow, write
_UCRED: Final = struct.Struct("iII")
_MAX_STRANGERS: Final = 1000  # packets in a row: then the caller does something else for once


def send_message(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet with descriptors (SCM_RIGHTS).

    Raises:
        BlockingIOError: the socket does not block and is full. BrokenPipeError: the peer is gone.
    """
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    sock.sendmsg([data], control, socket.MSG_NOSIGNAL)


def recv_message(sock: socket.socket, max_bytes: int = 65536, max_fds: int = 64) -> tuple[bytes, list[int]]:
    """Return one packet and its descriptors, close-on-exec; ``(b"", [])`` when the peer is gone.

    Raises:
        ValueError: the packet or its descriptors were cut; those that came are closed.
    """
    _, data, fds = _receive(sock, max_bytes, max_fds)
    return data, fds


def tell_senders(fd: int) -> None:
    """Have the kernel say with each packet that a socket gets who has sent it, for ``recv_from``."""
    sock = socket.socket(fileno=fd)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    finally:
        sock.detach()


def recv_from(sock: socket.socket, pid: int, max_bytes: int, max_fds: int) -> tuple[bytes, list[int]]:
    """As ``recv_message``, where several may hold the other end: drop what others than one send.

    Args:
        sock: after ``tell_senders``; does not block.
        pid: the sender, in this process's PID namespace. The kernel vouches for it: who has all
            privileges may use another, but only of its own PID namespace (SCM_CREDENTIALS in unix(7)).
        max_bytes: of a packet.
        max_fds: of a packet.

    Raises:
        BlockingIOError: it has sent nothing yet. ValueError: as ``recv_message``.
    """
    for _ in range(_MAX_STRANGERS):
        sender, data, fds = _receive(sock, max_bytes, max_fds, pid)
        if sender in (None, pid):
            return data, fds
        for fd in fds:
            os.close(fd)
    raise BlockingIOError(errno.EAGAIN, "only others have sent something")


def _receive(
    sock: socket.socket, max_bytes: int, max_fds: int, wanted: int | None = None
) -> tuple[int | None, bytes, list[int]]:
    """Return sender (if told), data and descriptors of one packet; a cut one of ``wanted`` is an error."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(max_fds * fds.itemsize)
    if wanted is not None:
        space += socket.CMSG_SPACE(_UCRED.size)
    data, control, flags, _ = sock.recvmsg(max_bytes, space, socket.MSG_CMSG_CLOEXEC)
    sender = None
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            sender = _UCRED.unpack(payload)[0]
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) and sender == wanted:
        for fd in fds:
            os.close(fd)
        raise ValueError(f"a packet of more than {max_bytes} bytes or {max_fds} descriptors")
    return sender, data, list(fds)


def socketpair() -> tuple[int, int]:
    """Return both ends of a connected SOCK_SEQPACKET pair, close-on-exec, that block."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return left.detach(), right.detach()


def connect(sock: socket.socket, path: str) -> None:
    """Connect to a socket file, however long its path is: 107 bytes are all that an address holds.

    Raises:
        OSError: as connect(2); also where its directory is missing.
    """
    with _directory(path) as address:
        sock.connect(address)


def listen(path: str, backlog: int = 128) -> socket.socket:
    """Listen on a socket file of mode 0600, in place of one that is there. Its path may be of any length."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        with _directory(path) as address:
            sock.bind(address)
        os.chmod(path, 0o600)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _directory(path: str) -> Iterator[str]:
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return (pid, uid, gid) of the other end, as the kernel knows them (SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return pid, uid, gid


def sealed_memfd(name: str, data: bytes) -> int:
    """Return a memory file with ``data`` that nobody can change any more; its offset is 0."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_fd(fd: int) -> bytes:
    """Return the whole content of a file by descriptor, from its beginning; the offset stays."""
    size = os.fstat(fd).st_size
    chunks, at = [], 0
    while at < size and (chunk := os.pread(fd, size - at, at)):
        chunks.append(chunk)
        at += len(chunk)
    return b"".join(chunks)
