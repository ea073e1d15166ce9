"""Which layers a machine that went down without warning may have lost, although they were synced.

While a store is open there is a file ``running`` in its directory; it goes when the store closes. One that is
found at the start, from another boot, tells of a power cut: then what was unpacked since the time in it is
doubtful, until somebody has looked. Blocking.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Final

import msgspec

from shim.kernel import files

log = logging.getLogger(__name__)

_NAME: Final = "running"
_MARGIN_S: Final = 60.0


class _Mark(msgspec.Struct, frozen=True):
    boot_id: str
    since: float
    doubtful: bool = False
    version: int = 1


class RunningMark:
    """The file that says that a store is open.

    Args:
        root: the store's directory.
        boot_id: of this boot.
    """

    def __init__(self, root: str, boot_id: str) -> None:
        self._path = os.path.join(root, _NAME)
        self._boot_id = boot_id

    def begin(self) -> float | None:
        """Say that the store is open.

        Returns:
            The time since when layers are doubtful, in seconds since 1970; None if none are.
        """
        found = self._read()
        mark = _Mark(self._boot_id, time.time())
        if found is not None:
            is_doubtful = found.doubtful or found.boot_id != self._boot_id
            mark = _Mark(self._boot_id, found.since, is_doubtful)
        self._write(mark)
        return mark.since - _MARGIN_S if mark.doubtful else None

    def settle(self) -> None:
        """Say that what was doubtful has been looked at."""
        self._write(_Mark(self._boot_id, time.time()))

    def end(self) -> None:
        """Say that the store is closed: unless something is still doubtful."""
        found = self._read()
        if found is None or not found.doubtful:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def _read(self) -> _Mark | None:
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=_Mark)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read, every layer is checked: %s", self._path, error)
            return _Mark("", 0.0, True)

    def _write(self, mark: _Mark) -> None:
        try:
            files.write_atomic(self._path, msgspec.json.encode(mark), durable=True)
        except OSError as error:  # a full disk is no reason not to start
            log.warning("a power cut from now on would not be noticed: %s", error)
