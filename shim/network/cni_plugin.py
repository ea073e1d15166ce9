"""One run of a CNI plugin: a program that reads its configuration and answers in JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shim.errors import DeadlineExceeded, FailedPrecondition, ShimError, Unavailable

_TRY_AGAIN_LATER: Final = 11
_STDERR_CHARACTERS: Final = 2000
# Between systemd and the daemon; a plugin that answered in our place would confuse both.
_PRIVATE: Final = (
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


async def run(
    kind: str,
    command: str,
    settings: Mapping[str, str],
    stdin: bytes,
    *,
    bin_dirs: Sequence[str],
    timeout_s: float,
) -> dict[str, Any]:
    """Run a plugin to its end and return its result; empty where it has none.

    Args:
        kind: its type, which is the name of its program.
        command: ADD or DEL.
        settings: the CNI_* variables that depend on the pod.
        stdin: its configuration.
        bin_dirs: where programs lie.
        timeout_s: then it is killed, with all that it started.

    Raises:
        FailedPrecondition: there is no such plugin, or it failed; with its words.
        Unavailable: it wants to be tried again. DeadlineExceeded: it took too long.
    """
    program = find(kind, bin_dirs)
    kept = {key: value for key, value in os.environ.items() if key not in _PRIVATE}
    process = await asyncio.create_subprocess_exec(
        program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**kept, **settings, "CNI_COMMAND": command, "CNI_PATH": os.pathsep.join(bin_dirs)},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        raise DeadlineExceeded(f"CNI plugin {kind!r} ({command}) took more than {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        raise explain(kind, command, process.returncode, out, err)
    return _parse_output(kind, command, out)


def find(kind: str, bin_dirs: Sequence[str]) -> str:
    """Return the path of a plugin.

    Raises:
        FailedPrecondition: it is nowhere.
    """
    for directory in bin_dirs:
        path = os.path.join(directory, kind)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise FailedPrecondition(f"CNI plugin {kind!r} is in none of {', '.join(bin_dirs)}: install it")


def explain(kind: str, command: str, status: int, out: bytes, err: bytes) -> ShimError:
    """Return the error that a failed plugin stands for. Pure."""
    code, words = 0, ""
    try:
        document = json.loads(out)
        code = int(document.get("code", 0))
        words = "; ".join(filter(None, (str(document.get(key, "")) for key in ("msg", "details"))))
    except (ValueError, AttributeError, TypeError):
        words = out.decode("utf-8", "replace").strip()[-_STDERR_CHARACTERS:]
    said = err.decode("utf-8", "replace").strip()[-_STDERR_CHARACTERS:]
    how = f"exit code {status}" if status > 0 else f"signal {-status}"
    text = f"CNI plugin {kind!r} ({command}) failed with {how}: " + (words or said or "it said nothing")
    if words and said:
        text += f" (stderr: {said})"
    return Unavailable(text) if code == _TRY_AGAIN_LATER else FailedPrecondition(text)


def _parse_output(kind: str, command: str, out: bytes) -> dict[str, Any]:
    if not out.strip():
        return {}
    try:
        result = json.loads(out)
    except ValueError as error:
        raise FailedPrecondition(f"CNI plugin {kind!r} ({command}) answered no JSON: {error}") from None
    if not isinstance(result, dict):
        raise FailedPrecondition(f"CNI plugin {kind!r} ({command}) answered no JSON object")
    return result
