"""A configuration as TOML with its help, such as ``config default`` prints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from shim.daemon.config import Config


def format_config(value: Config, origins: Mapping[str, str] | None = None) -> str:
    """Return ``value`` as a TOML file that reads back as the same.

    Args:
        value: what to write.
        origins: dotted key to where it was set; shown in place of the help.
    """
    return "\n".join(_lines(value, "", origins)) + "\n"


def _lines(section: Any, prefix: str, origins: Mapping[str, str] | None) -> Iterator[str]:
    tables = []
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{prefix}{field.name}"
        if "help" not in field.metadata:
            tables.append((key, value))
            continue
        if origins is None:
            yield f"# {field.metadata['help']}"
            yield f"{field.name} = {_format(value)}"
        else:
            origin = origins.get(key)
            yield f"{field.name} = {_format(value)}" + (f"  # {origin}" if origin else "")
    for key, value in tables:
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        for name, entry in entries:
            full = f"{key}.{_key(name)}" if name else key
            doc = (type(entry).__doc__ or "").partition("\n")[0]
            yield ""
            if origins is None:
                yield f"# {doc}"
            yield f"[{full}]"
            yield from _lines(entry, f"{key}.{name}." if name else f"{key}.", origins)


def _key(name: str) -> str:
    return _format(name) if "." in name else name


def _format(value: Any) -> str:
    # JSON's texts, numbers, booleans and lists are TOML's too.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
