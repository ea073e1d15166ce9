"""CNI configurations: where they lie and what is in them (CNI specification 1.1, section 1).

They are read again whenever somebody asks, so there is no watching that can break. A file that cannot be used
is passed over and named, as long as another one can.

Pure, but for ``look``, ``find`` and ``candidates``, which read files and block.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.network import cni_versions
from shim.store import records

SUFFIXES: Final = (".conflist", ".conf", ".json")
MAX_BYTES: Final = 1 << 20
_NAMES_NO_PLUGIN: Final = frozenset(("", ".", ".."))
_NETWORK_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

Aggregated = Callable[[str], Sequence[tuple[str, bytes]]]


@dataclass(frozen=True, slots=True)
class Configuration:
    """A list of plugins, each called with the result of the one before.

    Attributes:
        cni_version: the version that plugins are called with.
        plugins: their configurations, as written.
        versions: what the file offers, of those that this program knows, the highest first.
        path: the file.
        disable_check, disable_gc: whether CHECK and GC are not to be called.
    """

    name: str
    cni_version: str
    plugins: tuple[Mapping[str, Any], ...]
    versions: tuple[str, ...] = ()
    path: str = ""
    disable_check: bool = False
    disable_gc: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the directories.

    Attributes:
        configuration: the first that can be used; None where there is none.
        refused: files before it that cannot, each with the reason: ``PATH: why``.
        notes: what is odd about the one that is used.
    """

    configuration: Configuration | None
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def candidates(directories: Iterable[str]) -> list[str]:
    """Return files that may be configurations, those of the first directory first, each by name."""
    return _list(directories)[0]


def _list(directories: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return candidates, and complaints about directories that cannot be read."""
    found, complaints = [], []
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        except OSError as error:
            complaints.append(f"{directory}: cannot be read: {error.strerror}")
            continue
        paths = (os.path.join(directory, name) for name in names if name.endswith(SUFFIXES))
        found += [path for path in paths if not os.path.isdir(path)]
    return found, complaints


def look(directories: Sequence[str]) -> Found:
    """Return the first configuration that can be used, and what was wrong with those before it."""
    paths, refused = _list(directories)
    for path in paths:
        notes: list[str] = []
        try:
            data = read(path)
            configuration = parse(data, path, aggregated=_beside(path), notes=notes)
        except (OSError, InvalidArgument) as error:
            refused.append(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
        else:
            return Found(configuration, tuple(refused), tuple(notes))
    return Found(None, tuple(refused))


def find(directories: Sequence[str]) -> Configuration:
    """Return the first configuration that can be used.

    Raises:
        FailedPrecondition: there is none; says what is wrong with those there are.
    """
    found = look(directories)
    if found.configuration is None:
        raise FailedPrecondition(explain(found, directories))
    return found.configuration


def explain(found: Found, directories: Sequence[str]) -> str:
    """Return why there is no configuration."""
    where = ", ".join(directories)
    if found.refused:
        return f"no CNI configuration in {where} can be used: {'; '.join(found.refused)}"
    return f"no CNI configuration in {where}: a network add-on puts it there"


def read(path: str) -> bytes:
    """Return what is in a file, never waiting for a writer.

    Raises:
        InvalidArgument: it is no regular file, or larger than any configuration. OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument("it is no regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InvalidArgument(f"it is larger than {MAX_BYTES} bytes")
    return data


def _beside(path: str) -> Aggregated:
    """Return what reads the plugins of a network that lie in a directory of its name, beside its file."""

    def load(name: str) -> list[tuple[str, bytes]]:
        directory = os.path.join(os.path.dirname(path), name)
        try:
            names = sorted(each for each in os.listdir(directory) if each.endswith(".conf"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InvalidArgument(f"the directory {directory} of its plugins: {error.strerror}") from None
        return [_read_named(os.path.join(directory, each)) for each in names]

    return load


def _read_named(path: str) -> tuple[str, bytes]:
    try:
        return path, read(path)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from None
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror or os.strerror(error.errno or errno.EIO)}") from None


def parse(
    data: bytes | str,
    path: str = "",
    *,
    aggregated: Aggregated = lambda _name: (),
    notes: list[str] | None = None,
) -> Configuration:
    """Return a configuration list, or a single configuration as a list of one.

    Args:
        data: the file's content.
        path: the file.
        aggregated: returns further plugins, as (path, content), for the name of a network.
        notes: what is odd but can be used is added to it.

    Raises:
        InvalidArgument: it is none, and why.
    """
    document = _object(data, notes)
    name = document.get("name")
    if not isinstance(name, str) or not _NETWORK_NAME.fullmatch(name):
        raise InvalidArgument(
            f"its name must be letters, digits, '_', '.' and '-', a letter or digit first, not {name!r}"
        )
    plugins = _plugins(document)
    if "type" not in document and not _flag(document, "loadOnlyInlinedPlugins"):
        for where, content in aggregated(name):
            try:
                plugins.append(_plugin(_object(content, notes)))
            except InvalidArgument as error:
                raise InvalidArgument(f"{where}: {error}") from None
    if not plugins:
        raise InvalidArgument("it names no plugins")
    versions = _versions(document)
    configuration = Configuration(
        name=name,
        cni_version=versions[0],
        plugins=tuple(plugins),
        versions=versions,
        path=path,
        disable_check=_flag(document, "disableCheck"),
        disable_gc=_flag(document, "disableGC"),
    )
    try:
        records.encode(configuration)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"it holds a value that cannot be passed on: {error}") from None
    return configuration


def _object(data: bytes | str, notes: list[str] | None) -> dict[str, Any]:
    """Return the JSON object in ``data``. Of a key that is there twice the last counts, as for everybody."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if notes is not None and len(value) < len(items):
            names = [key for key, _ in items]
            twice = sorted({key for key in names if names.count(key) > 1})
            notes.append(f"key {', '.join(map(repr, twice))} is there more than once: the last one counts")
        return value

    try:
        document = json.loads(data, object_pairs_hook=pairs, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidArgument("it is not JSON: it is not text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument("it is no JSON object")
    return document


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")


def _plugins(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the plugins that are written in the file itself."""
    if "plugins" not in document:
        if "type" not in document and _flag(document, "loadOnlyInlinedPlugins"):
            raise InvalidArgument("it names no plugins, and loadOnlyInlinedPlugins is true")
        return [_plugin(document)] if "type" in document else []
    plugins = document["plugins"]
    if not isinstance(plugins, list) or not plugins:
        raise InvalidArgument("it names no plugins: 'plugins' must be a list that is not empty")
    return [_plugin(plugin) for plugin in plugins]


def _plugin(value: object) -> Mapping[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or not _is_program(kind):
        raise InvalidArgument(f"a plugin's type must be the name of a program, not {kind!r}")
    if not isinstance(value.get("capabilities") or {}, dict):
        raise InvalidArgument(f"the capabilities of plugin {kind!r} must be an object")
    return value


def _is_program(kind: str) -> bool:
    return kind not in _NAMES_NO_PLUGIN and not set(kind) & set("/\\\0")


def _versions(document: Mapping[str, Any]) -> tuple[str, ...]:
    several = document.get("cniVersions", [])
    single = document.get("cniVersion") or ("" if several else cni_versions.UNSAID)
    if not isinstance(single, str) or not isinstance(several, list):
        raise InvalidArgument("cniVersion must be a text, cniVersions a list of texts")
    offered = [*several, *([single] if single else [])]
    if not all(isinstance(each, str) for each in offered):
        raise InvalidArgument("cniVersions must be a list of texts")
    versions = cni_versions.known(offered)
    if not versions:
        said = ", ".join(repr(each) for each in offered)
        raise InvalidArgument(
            f"it is of CNI version {said}, this program speaks {', '.join(cni_versions.KNOWN)}"
        )
    return versions


def _flag(document: Mapping[str, Any], key: str) -> bool:
    value = document.get(key, False)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise InvalidArgument(f"{key} must be true or false, not {value!r}")
    return value
