"""The CDI files of a node: found anew each time, read again only where a file has changed.

A directory later in the list goes before an earlier one. Two files of one directory that both have a device
are in conflict, and nobody gets it. A file that cannot be read is a warning, and an error only for who asks
for a device that is not there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shim.errors import FailedPrecondition, InvalidArgument
from shim.services.cdi import files
from shim.services.cdi.files import Device, Specification

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A device, with the file that says what it is."""

    path: str
    specification: Specification
    device: Device


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it was when it was last read: either what it says, or what is wrong with it."""

    state: tuple[int, int, int]
    specification: Specification | None
    wrong: str


class Library:
    """All devices by name. Blocking, for one thread at a time.

    Args:
        directories: where files are, the later the more they count; one that is missing is empty.
    """

    def __init__(self, directories: Sequence[str] = ()) -> None:
        self._directories = tuple(directories)
        self._read: dict[str, _Read] = {}

    def find(self, names: Sequence[str]) -> list[Found]:
        """Return the devices of these names, in their order.

        Raises:
            InvalidArgument: one is not there; the text names those there are, and files that cannot be read.
            FailedPrecondition: two files are in conflict about one.
        """
        devices = self._look()
        found: list[Found] = []
        for name in names:
            candidates = devices.get(name, ())
            if not candidates:
                raise InvalidArgument(self._unknown(name, devices))
            if len(candidates) > 1:
                paths = " and ".join(each.path for each in candidates)
                raise FailedPrecondition(f"CDI device {name!r} is in {paths}: only one may have it")
            found += candidates
        return found

    def _unknown(self, name: str, devices: dict[str, list[Found]]) -> str:
        where = ", ".join(self._directories) or "no directory"
        text = (
            f"there is no CDI device {name!r} in {where}; known are: {', '.join(sorted(devices)) or 'none'}"
        )
        broken = [f"{path} cannot be used: {read.wrong}" for path, read in self._read.items() if read.wrong]
        return "; ".join((text, *broken))

    def _look(self) -> dict[str, list[Found]]:
        """Return the files' devices; more than one for a name that is in conflict."""
        devices: dict[str, list[Found]] = {}
        seen: dict[str, _Read] = {}
        for directory in self._directories:
            here: dict[str, list[Found]] = {}
            for path, state in _files(directory):
                read = self._read.get(path)
                seen[path] = read if read is not None and read.state == state else _load(path, state)
                for name, found in _devices(path, seen[path].specification):
                    here.setdefault(name, []).append(found)
            devices |= here
        self._read = seen
        return devices


def _devices(path: str, specification: Specification | None) -> Iterator[tuple[str, Found]]:
    if specification is not None:
        for device in specification.devices:
            yield f"{specification.kind}={device.name}", Found(path, specification, device)


def _files(directory: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Yield path and state of each file that may be one of CDI; one that vanishes meanwhile is left out."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("cannot list the CDI files in %s: %s", directory, error.strerror)
        return
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith(files.SUFFIXES) and os.path.isfile(path):
            try:
                status = os.stat(path)
            except OSError:
                continue
            yield path, (status.st_mtime_ns, status.st_size, status.st_ino)


def _load(path: str, state: tuple[int, int, int]) -> _Read:
    try:
        with open(path, "rb") as file:
            return _Read(state, files.parse(file.read(), is_json=path.endswith(".json")), "")
    except (OSError, InvalidArgument) as error:
        log.warning("the CDI file %s cannot be used: %s", path, error)
        return _Read(state, None, str(error))
