"""One run of a CNI plugin: a program that reads its configuration and answers in JSON.

Whatever it does is bounded: how long it takes, how much it says, and how long others that it left behind keep
its output open.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from shim.errors import DeadlineExceeded, FailedPrecondition, ShimError, Unavailable

# Codes of the specification, section 5.
UNKNOWN_CONTAINER: Final = 3
TRY_AGAIN_LATER: Final = 11

MARK: Final = "CRI_SHIM_PLUGIN_OF"  # by which a later daemon knows a plugin of ours (``cni_orphans``)
_MAX_ANSWER_BYTES: Final = 1 << 20
_STDERR_CHARACTERS: Final = 2000
_DRAIN_S: Final = 1.0
# Between systemd and the daemon; a plugin that answered in our place would confuse both.
_PRIVATE: Final = (
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


class PluginFailed(FailedPrecondition):
    """A plugin said no.

    Attributes:
        code: its own, of the specification's table; 0 if it gave none.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Call:
    """What a plugin is called with.

    Attributes:
        kind: its type, which is the name of its program.
        command: ADD, DEL, CHECK, STATUS, GC or VERSION.
        network: name of the network.
        path: the file that configures it.
        stdin: its configuration.
        variables: the CNI_* variables that depend on the pod.
    """

    kind: str
    command: str
    network: str
    path: str
    stdin: bytes
    variables: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"CNI plugin {self.kind!r} ({self.command}) of network {self.network!r} in {self.path}"


async def run(call: Call, *, bin_dirs: Sequence[str], timeout_s: float, mark: str = "") -> bytes:
    """Run a plugin to its end and return what it wrote.

    Args:
        call: what with.
        bin_dirs: where programs lie.
        timeout_s: then it is killed, with all of its process group.
        mark: names the daemon's directory, in the plugin's environment.

    Raises:
        FailedPrecondition: there is no such plugin, or it failed; with its words.
        Unavailable: it wants to be tried again. DeadlineExceeded: it took too long.
    """
    process = _start(call, bin_dirs, mark)
    out, err = bytearray(), bytearray()
    readers = [
        asyncio.create_task(_read(process.stdout, out, keep_last=False)),
        asyncio.create_task(_read(process.stderr, err, keep_last=True)),
    ]
    try:
        async with asyncio.timeout(timeout_s):
            await _exit_of(process.pid)
    except TimeoutError:
        said = f", it said: {_words(err)}" if _words(err) else ""
        raise DeadlineExceeded(f"{call} took more than {timeout_s:g} s and was killed{said}") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it is not reaped, so the number is its own
            await _exit_of(process.pid)
            process.wait()
        # A process that it left behind may keep its output open for as long as it likes.
        await asyncio.wait(readers, timeout=_DRAIN_S)
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    if process.returncode:
        raise explain(call, process.returncode, bytes(out), bytes(err))
    if len(out) > _MAX_ANSWER_BYTES:
        raise FailedPrecondition(f"{call} answered more than {_MAX_ANSWER_BYTES} bytes")
    return bytes(out)


def _start(call: Call, bin_dirs: Sequence[str], mark: str) -> subprocess.Popen[bytes]:
    program = find(call.kind, bin_dirs)
    if not program:
        raise FailedPrecondition(f"{call} cannot be run: it is in none of {', '.join(bin_dirs)}: install it")
    kept = {key: value for key, value in os.environ.items() if key not in _PRIVATE}
    settings = {"CNI_COMMAND": call.command, "CNI_PATH": os.pathsep.join(bin_dirs), MARK: mark}
    with open(os.memfd_create("cni-configuration", os.MFD_CLOEXEC), "r+b") as stdin:
        stdin.write(call.stdin)
        stdin.seek(0)
        try:
            return subprocess.Popen(
                [program],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**kept, **call.variables, **settings},
                start_new_session=True,
            )
        except OSError as error:
            text = f"{call} cannot be run: {program}: {error.strerror}"
            if error.errno == errno.ETXTBSY:  # it is being replaced
                raise Unavailable(text) from None
            raise FailedPrecondition(text) from None


async def _exit_of(pid: int) -> None:
    """Wait for the end of a child of ours, whoever still has its output."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    fd = os.pidfd_open(pid)
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def _read(pipe: IO[bytes] | None, kept: bytearray, *, keep_last: bool) -> None:
    """Read to the end; keep the first or the last of it, a little more than is wanted."""
    limit = 4 * _STDERR_CHARACTERS if keep_last else _MAX_ANSWER_BYTES + 1
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), pipe
    )
    try:
        while chunk := await stream.read(65536):
            if keep_last:
                kept += chunk
                del kept[:-limit]
            else:
                kept += chunk[: limit - len(kept)]
    finally:
        transport.close()


def find(kind: str, bin_dirs: Sequence[str]) -> str:
    """Return the path of a plugin's program; empty if it is nowhere."""
    for directory in bin_dirs:
        path = os.path.join(directory, kind)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def explain(call: Call, status: int, out: bytes, err: bytes) -> ShimError:
    """Return the error that a failed plugin stands for. Pure."""
    code, words = 0, ""
    try:
        document = json.loads(out)
        code = int(document.get("code", 0))
        words = "; ".join(filter(None, (str(document.get(key, "")) for key in ("msg", "details"))))
    except (ValueError, AttributeError, TypeError, RecursionError):
        words = _words(out)
    said = _words(err)
    how = f"exit code {status}" if status > 0 else f"signal {-status}"
    text = f"{call} failed with {how}: " + (words[:_STDERR_CHARACTERS] or said or "it said nothing")
    if words and said:
        text += f" (stderr: {said})"
    return Unavailable(text) if code == TRY_AGAIN_LATER else PluginFailed(text, code)


def _words(data: bytes | bytearray) -> str:
    """Return the end of what was said, on one line, without control characters."""
    text = data.decode("utf-8", "replace").strip()[-_STDERR_CHARACTERS:]
    return "".join(char if char.isprintable() else " " for char in text)


def parse_answer(call: Call, out: bytes) -> dict[str, Any]:
    """Return the JSON object that a plugin answered.

    Raises:
        FailedPrecondition: it answered something else.
    """
    if not out.strip():
        raise FailedPrecondition(f"{call} answered nothing")
    try:
        result = json.loads(out)
    except (ValueError, RecursionError) as error:
        raise FailedPrecondition(f"{call} answered no JSON but {_words(out)[:100]!r}: {error}") from None
    if not isinstance(result, dict):
        raise FailedPrecondition(f"{call} answered no JSON object but {_words(out)[:100]!r}")
    return result


@dataclass(frozen=True, slots=True)
class Plugins:
    """The plugins of a node.

    Attributes:
        bin_dirs: where they lie.
        timeout_s: for each run.
        mark: the daemon's directory.
    """

    bin_dirs: Sequence[str]
    timeout_s: float
    mark: str

    async def run(self, call: Call, timeout_s: float = 0) -> bytes:
        """Run one (``run``), in the time that all have or in ``timeout_s``."""
        return await run(call, bin_dirs=self.bin_dirs, timeout_s=timeout_s or self.timeout_s, mark=self.mark)
