"""Exit records: ``<directory>/<id>.json`` on tmpfs, whole or absent.

The supervisor writes one at each end, before it reaps and before it tells; the daemon reads those that it
has missed. Where the file system is full the record stays in memory and is written again later.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict
from typing import Final

from shim.errors import InvalidArgument
from shim.kernel import files
from shim.model.container import ExitRecord
from shim.supervisor.protocol import ProtocolError, from_fields

log = logging.getLogger(__name__)

VERSION: Final = 1
_ID: Final = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z_.-]{0,127}")
_SUFFIX: Final = ".json"


def check_id(id_: str) -> None:
    """Check that an id can name a file.

    Raises:
        InvalidArgument: it cannot.
    """
    if not _ID.fullmatch(id_):
        raise InvalidArgument(f"{id_!r} is not an id")


def save(directory: str, record: ExitRecord) -> None:
    """Write a record.

    Raises:
        KernelError: it is not there, such as for a full file system.
    """
    data = json.dumps({"version": VERSION} | asdict(record), separators=(",", ":")).encode()
    files.write_atomic(_path(directory, record.id), data)


def remove(directory: str, id_: str) -> None:
    """Remove a record. Idempotent."""
    try:
        os.unlink(_path(directory, id_))
    except FileNotFoundError:
        return


def load_all(directory: str) -> dict[str, ExitRecord]:
    """Return all records by id; what cannot be read is removed with a warning: the kernel is asked."""
    found = {}
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if not name.endswith(_SUFFIX) or name.startswith("."):
            continue
        try:
            record = _load(path)
        except (OSError, ValueError, ProtocolError) as error:
            log.warning("exit record %s cannot be read and is removed: %s", path, error)
            os.unlink(path)
            continue
        found[record.id] = record
    return found


def _load(path: str) -> ExitRecord:
    with open(path, "rb") as file:
        value = json.load(file)
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise ValueError("it has another version")
    return from_fields(ExitRecord, value)


def _path(directory: str, id_: str) -> str:
    check_id(id_)
    return os.path.join(directory, id_ + _SUFFIX)
