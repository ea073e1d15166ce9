"""The process that unpacks layers: ``python -m shim.images.unpack.worker``.

It serves one job after another on the SEQPACKET socket that is its standard input. A job is one JSON object
with three descriptors: the layer's empty directory, the pipe (or file) that the compressed layer comes from,
and a page of memory in which is said how far it is (``meter``).
The answer is one JSON object. Whatever goes wrong inside, the daemon survives it; it kills this process to
cancel.

Job: ``{"digest", "size", "offset", "diff_id", "entries", "bytes", "aliases"}``; ``""`` means unknown; with an
offset of -1 all that the descriptor gives is read, else that part of a file; aliases as of ``LayerWriter``.
``{"verify": true}`` has a layer checked instead (``check``), with the first descriptor alone, and answers
``{"problems": [sentence, …]}``.
Answer: ``{"diff_id", "digest", "size", "stream", "bytes", "inodes", "deferred", "opaque_root",
"root_described"}`` or
``{"error": class, "message", "syscall", "errno", "path"}``. What the daemon needs only now and then lies in
the layer's directory as ``layer.json``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import socket
import sys
from typing import Any, Final

from shim import errors
from shim.images.unpack import check, decompress, limits, record, tar, writer
from shim.images.unpack.meter import Meter
from shim.kernel import files, memory, paths

VERSION: Final = 1
_MEMORY_LIMIT_BYTES: Final = 2 << 30
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
# What only names, links and file types of the archive can bring about.
_HOSTILE: Final = (
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EMLINK,
    errno.EEXIST,
    errno.E2BIG,
    errno.ERANGE,
    errno.EFBIG,
    errno.EMFILE,
)


class _Checked:
    """The compressed stream, counted and hashed as it is read."""

    def __init__(self, fd: int, digest: str, size: int, offset: int, meter: Meter) -> None:
        algorithm = digest.partition(":")[0] or "sha256"
        self._fd = fd
        self._digest = digest
        self._size = size
        self._offset = offset
        self._hash = hashlib.new(algorithm)
        self._meter = meter
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        if self._offset < 0:
            data = os.read(self._fd, size)
        else:
            data = os.pread(self._fd, min(size, self._size - self.count), self._offset + self.count)
        self._hash.update(data)
        self._meter.move()
        self.count += len(data)
        if 0 <= self._size < self.count:
            raise errors.FailedPrecondition(f"the layer is longer than the {self._size} bytes it should have")
        return data

    def finish(self) -> str:
        """Read to the end; return the digest.

        Raises:
            FailedPrecondition: it is not what was asked for.
        """
        while self.read(1 << 18):
            pass
        if 0 <= self._size != self.count:
            raise errors.FailedPrecondition(f"the layer has {self.count} bytes instead of {self._size}")
        found = f"{self._hash.name}:{self._hash.hexdigest()}"
        if self._digest and found != self._digest:
            raise errors.FailedPrecondition(f"unexpected digest {found}, expected {self._digest}")
        return found


def unpack(layer_fd: int, source_fd: int, meter: Meter, job: dict[str, Any]) -> dict[str, Any]:
    """Unpack one layer; return what the answer says."""
    os.mkdir("fs", 0o755, dir_fd=layer_fd)
    source = _Checked(source_fd, job["digest"], job["size"], job["offset"], meter)
    diff = hashlib.sha256()
    stream_bytes = 0
    reader = tar.TarReader()
    allowed = limits.Limits(job["entries"], job["bytes"])
    record_fd = os.open("tar.zst", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=layer_fd)
    with open(record_fd, "wb", buffering=0) as file:
        keep = record.RecordWriter(file)
        aliases = {os.fsencode(path): os.fsencode(place) for path, place in job["aliases"].items()}
        layer = writer.LayerWriter(layer_fd, keep, allowed, aliases, meter)
        try:
            try:
                for chunk in decompress.read_chunks(source):
                    diff.update(chunk)
                    stream_bytes += len(chunk)
                    allowed.check_stream(stream_bytes)
                    layer.write(reader.feed(chunk))
                reader.close()
            except errors.InvalidArgument:
                source.finish()  # a wrong digest says more than what the wrong bytes lead to
                raise
            digest = source.finish()
            diff_id = f"sha256:{diff.hexdigest()}"
            if job["diff_id"] and diff_id != job["diff_id"]:
                raise errors.FailedPrecondition(
                    f"unexpected diff id {diff_id} of the unpacked layer, expected {job['diff_id']}"
                )
            keep.close()
            summary = layer.finish()
        finally:
            layer.close()
        record_bytes = file.tell()
    answer: dict[str, Any] = {
        "diff_id": diff_id,
        "digest": digest,
        "size": source.count,
        "stream": stream_bytes,
        "bytes": summary.used_bytes + record_bytes + 4096 * len(summary.implied),
        "inodes": summary.inodes,
        "deferred": bool(summary.implied or summary.links),
        "opaque_root": summary.opaque_root,
        "root_described": summary.root_described,
    }
    _write_facts(layer_fd, answer, summary, job["aliases"])
    meter.show(answer["bytes"], answer["inodes"])
    return answer


def _unpack_metered(fds: list[int], job: dict[str, Any]) -> dict[str, Any]:
    layer_fd, source_fd, meter_fd = fds
    meter = Meter(meter_fd)
    try:
        return unpack(layer_fd, source_fd, meter, job)
    finally:
        meter.close()


def verify(layer_fd: int) -> dict[str, Any]:
    """Check one layer that was unpacked before; return what the answer says."""
    try:
        with open(paths.open_beneath(layer_fd, "layer.json", os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            facts = json.load(file)
        return {"problems": check.check(layer_fd, facts)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"problems": [f"it cannot be read: {error!r}"[:500]]}


def _write_facts(
    layer_fd: int, answer: dict[str, Any], summary: writer.Summary, aliases: dict[str, str]
) -> None:
    facts = {
        "version": VERSION,
        **answer,
        "aliases": aliases,
        "tangled": summary.tangled,
        "made": [os.fsdecode(path) for path in summary.made],
        "implied": [os.fsdecode(path) for path in summary.implied],
        "links": [[os.fsdecode(new), os.fsdecode(target)] for new, target in summary.links],
        "displaced": [[since, os.fsdecode(path), name] for since, path, name in summary.displaced],
    }
    fd = os.open("layer.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=layer_fd)
    try:
        files.write_all(fd, json.dumps(facts).encode())
    finally:
        os.close(fd)


def describe(error: errors.ShimError | OSError | MemoryError) -> dict[str, Any]:
    """Return an error as the answer carries it."""
    if isinstance(error, errors.ShimError):
        return {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, MemoryError):
        return {"error": "ResourceExhausted", "message": "the layer needs too much memory to be unpacked"}
    path = error.filename
    shown = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
    if error.errno in _NO_ROOM:
        return {"error": "ResourceExhausted", "message": f"no space left on the device, at {shown!r}"}
    if error.errno in _HOSTILE:
        return {"error": "InvalidArgument", "message": f"malformed layer: {shown!r}: {error.strerror}"}
    syscall = error.syscall if isinstance(error, errors.KernelError) else "unpack"
    return {"error": "KernelError", "syscall": syscall, "errno": error.errno or errno.EIO, "path": shown}


def serve(sock: socket.socket) -> None:
    """Do jobs until the other end closes."""
    while True:
        data, fds, _, _ = socket.recv_fds(sock, 65536, 3)
        if not data:
            return
        _end_with_caller(sock, armed=True)
        try:
            job = json.loads(data)
            answer = verify(*fds) if "verify" in job else _unpack_metered(fds, job)
        except (errors.ShimError, OSError, MemoryError) as error:
            answer = describe(error)
        finally:
            for fd in fds:
                os.close(fd)
            _end_with_caller(sock, armed=False)
        sock.send(json.dumps(answer).encode())
        memory.trim()  # what a layer leaves free is as much as an idle worker needs


def _end_with_caller(sock: socket.socket, *, armed: bool) -> None:
    """Have the kernel kill this process when the daemon's end closes: a layer may take a while to unpack.

    The socket's signal (fcntl(2), O_ASYNC) comes with messages too, but none comes while a job is done.
    """
    fd = sock.fileno()
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if armed:
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC if armed else flags & ~os.O_ASYNC)


def main() -> None:
    """Serve the socket at descriptor 0."""
    os.umask(0)
    _be_expendable()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=os.dup(0)) as sock:
        try:
            serve(sock)
        except (BrokenPipeError, ConnectionResetError):
            sys.exit(1)  # the daemon is gone, and with it the caller


def _be_expendable() -> None:
    """Do not inherit the daemon's protection from the OOM killer, and leave the processors to pods."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    os.nice(5)


if __name__ == "__main__":
    main()
