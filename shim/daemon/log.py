"""The daemon's own log: text or JSON on standard error, the ids of the call in every line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from shim.api import calls
from shim.daemon.config import LogConfig

# Libraries that log every request at level info.
_CHATTY: Final = ("httpx", "httpcore", "pyroute2", "asyncio", "grpc")


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


class _Context(logging.Filter):
    """Puts the fields of the call under way on each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.call = calls.current()
        return True


class TextFormatter(logging.Formatter):
    """One line for people: time, level, module, message, then the ids."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        fields = "".join(f" {key}={_quote(value)}" for key, value in _fields(record).items())
        name = record.name.removeprefix("shim.")
        message = _one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname.lower():7} {name}: {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback is a field."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    fields: dict[str, str] = dict(getattr(record, "call", {}))
    return fields


def _one_line(text: str) -> str:
    # What a container or registry says must not forge a line of the log.
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _quote(value: str) -> str:
    return value if value.isprintable() and " " not in value else repr(value)


def configure(config: LogConfig) -> None:
    """Send all logging to standard error in the format of ``config``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Context())
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
