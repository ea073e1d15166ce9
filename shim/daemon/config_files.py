"""Configuration from TOML files and flags, later ones over earlier ones, validated once.

Order: ``config.toml``, the files of ``conf.d`` beside it by name, flags. A list is replaced, not extended.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shim.daemon import config
from shim.errors import InvalidArgument

DEFAULT_PATH: Final = "/etc/cri-shim/config.toml"
FLAG: Final = "command line"

_KINDS: Final = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    tuple[str, ...]: "a list of texts",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and for each dotted key that was given the file that had the last word."""

    config: config.Config
    origins: Mapping[str, str]


def load(path: str | None = None, flags: Mapping[str, Any] | None = None) -> Loaded:
    """Read the configuration in force.

    Args:
        path: main file; None means the usual one, which may be missing.
        flags: dotted keys to values, over all files.

    Raises:
        InvalidArgument: names the file, the key, what is wrong and what would be right.
    """
    given: dict[str, tuple[Any, str]] = {}
    for file in _files(path):
        for key, value in _flatten(_parse(file), config.Config, ""):
            given[key] = (value, str(file))
    for key, value in (flags or {}).items():
        given[key] = (value, FLAG)
    known = _schema(config.Config, "")
    for key, (value, origin) in given.items():
        spec = _spec(known, key)
        if spec is None:
            raise InvalidArgument(_unknown(key, origin, known))
        if spec[0] is Mapping and value is not None:
            raise InvalidArgument(f"{origin}: {key} is {value!r}; it must be a table, [{key}]")
    made = _build(config.Config, "", given, known)
    _check_together(made, given)
    return Loaded(made, {key: origin for key, (_value, origin) in given.items()})


def parse_flag(text: str) -> tuple[str, Any]:
    """Return key and value of ``KEY=VALUE``; a VALUE that is not TOML is a text.

    Raises:
        InvalidArgument: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidArgument(f"{text!r} is not KEY=VALUE")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _files(path: str | None) -> list[Path]:
    main = Path(path or DEFAULT_PATH)
    if path is not None and not main.is_file():
        raise InvalidArgument(f"{main}: no such configuration file")
    drop_ins = sorted((main.parent / "conf.d").glob("*.toml"))
    return [main, *drop_ins] if main.is_file() else drop_ins


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: not TOML: {error}") from None
    except OSError as error:
        raise InvalidArgument(f"{file}: cannot read: {error.strerror}") from None


def _flatten(table: Mapping[str, Any], section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values. A named table (``handlers.NAME``) yields a key of its own, with None."""
    hints = _hints(section)
    for name, value in table.items():
        hint, key = hints.get(name), f"{prefix}{name}"
        if not isinstance(value, Mapping):
            yield key, value
        elif typing.get_origin(hint) is Mapping:
            for entry_name, entry in value.items():
                yield f"{key}.{entry_name}", None if isinstance(entry, Mapping) else entry
                if isinstance(entry, Mapping):
                    yield from _flatten(entry, typing.get_args(hint)[1], f"{key}.{entry_name}.")
        else:
            yield from _flatten(value, hint, f"{key}.")


def _hints(section: Any) -> dict[str, Any]:
    return typing.get_type_hints(section) if dataclasses.is_dataclass(section) else {}


def _schema(section: Any, prefix: str) -> dict[str, tuple[Any, config.Check]]:
    """Return dotted keys (``handlers.*.description``) with type and check."""
    hints = _hints(section)
    known: dict[str, tuple[Any, config.Check]] = {}
    for field in dataclasses.fields(section):
        hint, key = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            known[key] = (Mapping, _no_value)
            known |= _schema(hint, f"{key}.")
        elif "check" in field.metadata:
            known[key] = (hint, field.metadata["check"])
        else:
            known[key] = (Mapping, _no_value)
            known[f"{key}.*"] = (Mapping, _no_value)
            known |= _schema(typing.get_args(hint)[1], f"{key}.*.")
    return known


def _no_value(_value: Any) -> str:
    return "must be a table"


def _spec(known: Mapping[str, Any], key: str) -> Any:
    parts = key.split(".")
    if len(parts) > 1 and f"{parts[0]}.*" in known:
        key = ".".join([parts[0], "*", *parts[2:]])
    return known.get(key)


def _unknown(key: str, origin: str, known: Mapping[str, Any]) -> str:
    names = [name for name, (hint, _check) in known.items() if hint is not Mapping]
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    if not near:
        last = {name.rpartition(".")[2]: name for name in names}
        near = [last[hit] for hit in difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.4)]
    return f"{origin}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _build(section: Any, prefix: str, given: Mapping[str, tuple[Any, str]], known: Mapping[str, Any]) -> Any:
    hints, values = _hints(section), {}
    for field in dataclasses.fields(section):
        hint, key = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            values[field.name] = _build(hint, f"{key}.", given, known)
        elif "check" not in field.metadata:
            names = {each.split(".")[1] for each in given if each.startswith(f"{key}.")}
            entry = typing.get_args(hint)[1]
            values[field.name] = {
                name: _build(entry, f"{key}.{name}.", given, known) for name in sorted(names)
            }
        elif key in given:
            values[field.name] = _value(key, *given[key], *_spec(known, key))
    return section(**values)


def _value(key: str, value: Any, origin: str, hint: Any, check: config.Check) -> Any:
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = tuple(value)
    elif hint == tuple[str, ...] or type(value) is not hint:
        raise InvalidArgument(f"{origin}: {key} is {value!r}; it must be {_KINDS[hint]}")
    wrong = check(value)
    if wrong:
        raise InvalidArgument(f"{origin}: {key} is {value!r}: it {wrong}")
    return value


def _check_together(made: config.Config, given: Mapping[str, tuple[Any, str]]) -> None:
    """Check what only several values together can get wrong."""

    def origin(*keys: str) -> str:
        return next((given[key][1] for key in keys if key in given), "defaults")

    if made.handlers and made.default_handler not in (config.DEFAULT_HANDLER, *made.handlers):
        raise InvalidArgument(
            f"{origin('default_handler')}: default_handler is {made.default_handler!r}, which"
            f" handlers does not have; it has {', '.join(made.handlers)}"
        )
    for name in made.handlers:
        wrong = config.check_handler_name(name)
        if wrong:
            raise InvalidArgument(f"{origin(f'handlers.{name}')}: the name of handler {name!r} {wrong}")
    if made.root == made.state or made.root.startswith(made.state.rstrip("/") + "/"):
        raise InvalidArgument(
            f"{origin('root', 'state')}: root {made.root!r} lies in state {made.state!r},"
            " which a reboot empties"
        )
