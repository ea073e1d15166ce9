"""A disk whose writes and flushes are recorded, and the disks that power cuts would leave.

One file over FUSE, so that a loop device can lie on it: each write of the loop device comes here at once, and each
flush as an fsync. The recorder is a process of its own. Source: linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NAME = "disk"
_SECTOR = 512
_MAX_WRITE = 1 << 20
_RECORD = struct.Struct("<cQQ")  # kind, offset, length
_IN_HEADER, _OUT_HEADER = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 1, 2, 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _OPENDIR, _RELEASEDIR, _ACCESS = 18, 20, 25, 26, 27, 29, 34
_SILENT = {_FORGET, 36, 42}  # forget, interrupt, batch forget
_DIRECT_IO = 1


class _Server:
    """Answers the kernel's requests for one file until it is unmounted."""

    def __init__(self, device: int, file: int, log: int) -> None:
        self._device, self._file, self._log = device, file, log

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # unmounted
            _, code, unique, node, *_ = _IN_HEADER.unpack_from(request)
            if code in _SILENT:
                continue
            try:
                body, status = self._answer(code, node, memoryview(request)[_IN_HEADER.size :]), 0
            except OSError as error:
                body, status = b"", -(error.errno or errno.EIO)
            os.write(self._device, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), status, unique) + body)

    def _answer(self, code: int, node: int, body: memoryview) -> bytes:
        if code == _INIT:
            flags = 1 << 5 | 1 << 22  # big writes, max_pages counts
            return struct.pack("<IIIIHHIIHH32x", 7, 31, 0, flags, 16, 12, _MAX_WRITE, 1, 256, 0)
        if code == _LOOKUP:
            if bytes(body).rstrip(b"\0") != NAME.encode():
                raise OSError(errno.ENOENT, "no such file")
            return struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + self._attributes(2)
        if code in (_GETATTR, _SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if code in (_OPEN, _OPENDIR):
            return struct.pack("<QII", 0, _DIRECT_IO, 0)
        if code == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return os.pread(self._file, size, offset)
        if code == _WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = body[40 : 40 + size]
            os.pwrite(self._file, data, offset)
            os.write(self._log, _RECORD.pack(b"W", offset, size) + data)
            return struct.pack("<II", size, 0)
        if code == _FSYNC:
            os.write(self._log, _RECORD.pack(b"F", 0, 0))
            return b""
        if code == _STATFS:
            return struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 10, 10, 4096, 255, 4096, 0)
        if code in (_RELEASE, _RELEASEDIR, _FLUSH, _ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "not served")

    def _attributes(self, node: int) -> bytes:
        size = os.fstat(self._file).st_size if node == 2 else 0
        mode = stat.S_IFREG | 0o600 if node == 2 else stat.S_IFDIR | 0o700
        return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextlib.contextmanager
def recorded(file: Path, log: Path, place: Path) -> Iterator[Path]:
    """Give a path below ``place`` that is the disk in ``file``; what is written to it goes to ``log`` as well."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    file_fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(KeyboardInterrupt):
            _Server(device, file_fd, log_fd).serve()
        os._exit(0)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"recorder", os.fsencode(place), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "cannot mount FUSE")
    for fd in (device, file_fd, log_fd):
        os.close(fd)
    try:
        yield place / NAME
    finally:
        libc.umount2(os.fsencode(place), 2)
        os.waitpid(pid, 0)


@dataclass
class Write:
    """One write of the log; a flush has no data. ``end``: where it ends in the log."""

    offset: int
    data: bytes
    is_flush: bool
    end: int


def read_log(log: Path) -> list[Write]:
    """Return all that was recorded."""
    found, data, pos = [], log.read_bytes(), 0
    while pos < len(data):
        kind, offset, length = _RECORD.unpack_from(data, pos)
        pos += _RECORD.size
        found.append(Write(offset, data[pos : pos + length], kind == b"F", pos + length))
        pos += length
    return found


class Cutter:
    """Makes the disks that cuts would leave, at later and later moments.

    Args:
        base: the disk before the first write.
        writes: what was recorded.
    """

    def __init__(self, base: Path, writes: list[Write], chance: random.Random) -> None:
        self._file = base
        self._writes = writes
        self._chance = chance
        self._done = 0

    def cut(self, moment: int, target: Path) -> int:
        """Write the disk as it may be when the power goes after ``moment`` writes; return how many are in doubt."""
        flushes = [number for number in range(self._done, moment) if self._writes[number].is_flush]
        sure = flushes[-1] + 1 if flushes else self._done
        with self._file.open("r+b") as file:
            for write in self._writes[self._done : sure]:
                _apply(file.fileno(), write.offset, write.data)
        self._done = sure
        _copy(self._file, target)
        doubtful = [write for write in self._writes[sure:moment] if write.data]
        kept = [write for write in doubtful if self._chance.random() < 0.5]
        self._chance.shuffle(kept)  # a disk writes in any order it likes
        with target.open("r+b") as file:
            for write in kept:
                sectors = len(write.data) // _SECTOR
                whole = self._chance.random() < 0.7
                count = sectors if whole else self._chance.randint(0, sectors)
                _apply(file.fileno(), write.offset, write.data[: count * _SECTOR])
        return len(doubtful)


def _apply(fd: int, offset: int, data: bytes) -> None:
    if data:
        os.pwrite(fd, data, offset)


def _copy(source: Path, target: Path) -> None:
    """Copy a sparse file."""
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    with source.open("rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        pos = 0
        while pos < size:
            try:
                pos = os.lseek(old.fileno(), pos, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(old.fileno(), pos, os.SEEK_HOLE)
            while pos < end:
                pos += os.copy_file_range(old.fileno(), new.fileno(), end - pos, pos, pos)


@contextlib.contextmanager
def mounted(disk: Path, place: Path, run: Callable[[list[str]], None]) -> Iterator[None]:
    """Mount an ext4 through a loop device. ``run``: how to call a program; it raises OSError."""
    run(["mount", "-o", "loop", str(disk), str(place)])
    try:
        yield
    finally:
        for _ in range(50):  # a worker that was killed may still hold it
            try:
                run(["umount", str(place)])
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise OSError(f"{place} stays busy")
