"""A directory whose archives are loaded: at the start, and when they appear or change.

It is looked at every few seconds: one listing, one stat(2) for each file. A file that somebody still has open
for writing is left for the next look, and so is one whose name begins with a dot, as programs name what they
have not finished. What was loaded is remembered, so that a restart loads an archive again only if it has
changed, or images of it are missing. These images are pinned: once collected, nothing would bring them back.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import signal
import stat
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from shim.errors import ShimError
from shim.images.load import Loader
from shim.kernel import files
from shim.threads import Pool

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
_TRY_AGAIN_S: Final = 600.0
_RECORD: Final = "watched.json"
_NO_LEASES: Final = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EACCES)

Mark = tuple[int, int, int, int]
"""(inode, size, time of the content, time of the inode): equal for an unchanged file."""


class _Known(msgspec.Struct, frozen=True):
    mark: Mark
    images: tuple[str, ...] = ()
    failure: str = ""


class _Record(msgspec.Struct, frozen=True):
    archives: dict[str, _Known] = {}
    version: int = 1


class Watched:
    """Loads what appears in a directory.

    Args:
        directory: which; it need not be there yet.
        root: of the store, for the record of what was loaded.
        loader: takes archives in.
        is_here: tells whether an image with an id is listed.
        threads: for the disk.
    """

    def __init__(
        self, directory: str, root: str, loader: Loader, is_here: Callable[[str], bool], threads: Pool
    ) -> None:
        self._directory = directory
        self._record = os.path.join(root, _RECORD)
        self._loader = loader
        self._is_here = is_here
        self._threads = threads
        self._known: dict[str, _Known] = {}
        self._seen: dict[str, Mark] = {}
        self._lost = ""

    def failures(self) -> Mapping[str, str]:
        """Return why archives could not be loaded, by file name."""
        return {name: known.failure for name, known in self._known.items() if known.failure}

    async def run_forever(self) -> None:
        """Load what is there and what comes, until cancelled."""
        self._known = await self._threads.run(self._read)
        looks = 0
        while True:
            for name, mark in (await self._threads.run(self._look)).items():
                await self._settle(name, mark, again=not looks % int(_TRY_AGAIN_S / LOOK_EVERY_S))
            looks += 1
            await asyncio.sleep(LOOK_EVERY_S)

    async def _settle(self, name: str, mark: Mark, *, again: bool) -> None:
        known = self._known.get(name)
        if known is not None and known.mark == mark and not (again and self._wants_again(known)):
            return
        path = os.path.join(self._directory, name)
        try:
            images = await self._loader.load(path, "", pinned=True, report=None)
        except (ShimError, OSError) as error:
            fresh = _Known(mark, failure=str(error))
            if known is None or known.failure != fresh.failure:
                log.warning("cannot load %s: %s; it is tried again when it changes", path, error)
        else:
            fresh = _Known(mark, tuple(image.id for image in images))
            names = ", ".join(name for image in images for name in (image.repo_tags or (image.id,)))
            log.info("loaded %s: %s", path, names or "no image")
        self._known[name] = fresh
        await self._threads.run(self._write)

    def _wants_again(self, known: _Known) -> bool:
        """Tell whether an archive that has not changed may bring what is missing."""
        return bool(known.failure) or not all(map(self._is_here, known.images))

    def _look(self) -> dict[str, Mark]:
        """Return the archives that are whole, by name."""
        found: dict[str, Mark] = {}
        try:
            names = sorted(os.listdir(self._directory))
            self._lost = ""
        except OSError as error:
            if error.errno != errno.ENOENT and self._lost != str(error):
                self._lost = str(error)
                log.warning("cannot look for archives: %s", error)
            return {}
        for name in names:
            if name.startswith("."):
                continue
            mark = self._mark(os.path.join(self._directory, name), name)
            if mark is not None:
                found[name] = mark
        self._known = {name: known for name, known in self._known.items() if name in names}
        self._seen = {name: mark for name, mark in self._seen.items() if name in names}
        return found

    def _mark(self, path: str, name: str) -> Mark | None:
        """Return what a file is known by; None for what is no file, or not finished."""
        try:
            info = os.stat(path)
            if not stat.S_ISREG(info.st_mode):
                return None
            mark = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            known = self._known.get(name)
            if known is not None and known.mark == mark:
                return mark
            before, self._seen[name] = self._seen.get(name), mark
            is_written = _has_writers(path)
        except OSError:
            return None  # gone meanwhile, or not to be read: the next look tells
        # Where the file system cannot tell who writes: unchanged for one look.
        return mark if is_written is False or (is_written is None and before == mark) else None

    def _read(self) -> dict[str, _Known]:
        try:
            with open(self._record, "rb") as file:
                return msgspec.json.decode(file.read(), type=_Record).archives
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read, all archives are loaded again: %s", self._record, error)
            return {}

    def _write(self) -> None:
        try:
            files.write_atomic(self._record, msgspec.json.encode(_Record(self._known)))
        except OSError as error:
            log.warning("what was loaded is not remembered: %s", error)


def _has_writers(path: str) -> bool | None:
    """Tell whether somebody has a file open for writing; None where that is unknown.

    Then nobody gets a read lease on it (fcntl(2), F_SETLEASE).
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Who opens the file for writing in between waits until the lease is given back, and this process is
        # told by a signal: not by SIGIO, which would end it, but by one that does nothing.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno in _NO_LEASES:
            return None
        if error.errno == errno.EAGAIN:
            return True
        raise
    finally:
        os.close(fd)
    return False
