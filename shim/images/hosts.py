"""Which hosts to ask for an image, in which order: ``certs.d/<host>/hosts.toml`` as containerd reads it.

A registry's directory is ``<host>_<port>_``, ``<host>:<port>`` or ``_default``, whichever is there first. The
file's ``[host."…"]`` tables are mirrors, asked in order; ``server`` (or the registry itself) comes last. A
directory without hosts.toml, or with an empty one, may hold certificates as docker has them (``*.crt``;
``*.cert`` with ``*.key`` or with the key inside). Files are read for every pull, so that a change counts at
once. A malformed file fails the pull: containerd would go on without it, to other hosts than it names.

Source: containerd, docs/hosts.md.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from shim.errors import FailedPrecondition

RESOLVE: Final = "resolve"
PULL: Final = "pull"
_ALL: Final = frozenset((RESOLVE, PULL, "push", "referrers"))
_DOCKER: Final = "docker.io"
_DOCKER_HOST: Final = "registry-1.docker.io"
_FILE: Final = "hosts.toml"
_KEYS: Final = frozenset(
    ("capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout")
)
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


@dataclass(frozen=True, slots=True)
class Tls:
    """How to verify a host and to be known to it. ``client``: (certificate, key) files; key may be empty."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """One host to ask.

    Attributes:
        base: URL up to and with the API's root, ``https://registry-1.docker.io/v2``.
        capabilities: RESOLVE (tags to digests), PULL (content by digest).
        headers: sent with each request to this host and to no other.
        namespace: registry that the host stands for, sent as ``ns``; empty if it is that registry.
        dial_timeout_s: how long a connection may take; 0 means as for all.
        may_speak_tls: though ``base`` says http, TLS is used where the host is found to speak that: on
            loopback with a port that tells neither, and where the file has certificates for it.
    """

    base: str
    capabilities: frozenset[str] = _ALL
    headers: tuple[tuple[str, str], ...] = ()
    tls: Tls = Tls()
    namespace: str = ""
    dial_timeout_s: float = 0.0
    may_speak_tls: bool = False

    @property
    def netloc(self) -> str:
        """Host and port."""
        return urlsplit(self.base).netloc


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is configured for a registry.

    Attributes:
        hosts: in the order to ask them.
        source: the file or directory that says so; empty: nothing does.
        tried: directories that were looked for before, without success.
        warnings: what the file says and nobody understands.
    """

    hosts: tuple[Host, ...]
    source: str = ""
    tried: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def look_up(config_paths: tuple[str, ...], domain: str) -> Lookup:
    """Return the hosts for a registry's domain, and where that is written. Reads files.

    Raises:
        FailedPrecondition: a file is malformed; the message names it.
    """
    tried: list[str] = []
    for root in config_paths:
        for name in _directories(domain):
            directory = os.path.join(root, name)
            if not os.path.isdir(directory):
                tried.append(directory)
                continue
            path = os.path.join(directory, _FILE)
            try:
                with open(path, "rb") as file:
                    data = file.read()
            except FileNotFoundError:
                data = b""
            except OSError as error:
                raise FailedPrecondition(f"cannot read {path}: {error.strerror}") from error
            if data:
                return Lookup(parse(data, domain, directory), path, tuple(tried), find_unknown(data, path))
            host = replace(default_host(domain), tls=_find_certificates(directory))
            return Lookup((host,), directory, tuple(tried))
    return Lookup((default_host(domain),), "", tuple(tried))


def load(config_paths: tuple[str, ...], domain: str) -> tuple[Host, ...]:
    """Return the hosts for a registry's domain, in the order to ask them; see ``look_up``."""
    return look_up(config_paths, domain).hosts


def default_host(domain: str) -> Host:
    """Return the registry itself: https, but for http on loopback ports other than 443."""
    if domain == _DOCKER:
        return Host(f"https://{_DOCKER_HOST}/v2")
    name, port = _split_port(domain)
    if _is_loopback(name) and port not in ("", "443"):
        return Host(f"http://{domain}/v2", may_speak_tls=port != "80")
    return Host(f"https://{domain}/v2")


def parse(data: bytes, domain: str, directory: str) -> tuple[Host, ...]:
    """Return what a hosts.toml says. Pure; relative paths are taken from ``directory``.

    Raises:
        FailedPrecondition: it is malformed.
    """
    where = os.path.join(directory, _FILE)
    document = _document(data, where)
    tables = _tables(document, where)
    hosts = [_host(url, table, domain, directory) for url, table in tables.items() if url]
    server = document.get("server", "")
    if not isinstance(server, str):
        raise FailedPrecondition(f'malformed {where}: "server" must be a text')
    hosts.append(_host(server, document, domain, directory))
    return tuple(hosts)


def find_unknown(data: bytes, where: str) -> tuple[str, ...]:
    """Return a sentence for each key of a hosts.toml that means nothing here. Pure."""
    document = _document(data, where)
    known = _KEYS | {"server", "host"}
    found = [f"{where}: unknown key {key!r}" for key in document if key not in known]
    for url, table in _tables(document, where).items():
        found += [f'{where}: unknown key {key!r} of [host."{url}"]' for key in table if key not in _KEYS]
    return tuple(found)


def _document(data: bytes, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FailedPrecondition(f"malformed {where}: {error}") from error


def _tables(document: Mapping[str, Any], where: str) -> Mapping[str, Mapping[str, Any]]:
    tables = document.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise FailedPrecondition(
            f'malformed {where}: "host" must hold tables such as [host."https://mirror"]'
        )
    return tables


def _host(url: str, table: Mapping[str, Any], domain: str, directory: str) -> Host:
    """Return a host; an empty ``url`` means the registry itself."""
    where = os.path.join(directory, _FILE)
    headers = _headers(table.get("header", {}), where)
    tls = Tls(
        ca=tuple(os.path.join(directory, name) for name in _names(table.get("ca", []), where)),
        client=_clients(table.get("client", []), directory, where),
        skip_verify=_flag(table, "skip_verify", where),
    )
    timeout_s = _duration(table.get("dial_timeout", ""), where)
    capabilities = _capabilities(table.get("capabilities") or sorted(_ALL), url, where)
    keeps_path = _flag(table, "override_path", where)
    if not url:
        return replace(default_host(domain), headers=headers, tls=tls, dial_timeout_s=timeout_s)
    base, netloc = _base(url, keeps_path=keeps_path, where=where)
    stands_for_other = netloc != domain and (domain, netloc) != (_DOCKER, _DOCKER_HOST)
    return Host(
        base,
        capabilities,
        headers,
        tls,
        namespace=domain if stands_for_other else "",
        dial_timeout_s=timeout_s,
        may_speak_tls=base.startswith("http:") and tls != Tls(),
    )


def _base(url: str, *, keeps_path: bool, where: str) -> tuple[str, str]:
    """Return (URL of the API's root, host and port)."""
    try:
        split = urlsplit(url if "://" in url else f"https://{url}")
        usable = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
    except ValueError:
        split, usable = urlsplit(""), False
    if not usable or "@" in split.netloc or split.query or split.fragment:
        raise FailedPrecondition(f"malformed {where}: {url!r} is no plain http or https URL")
    path = f"/{posixpath.normpath(split.path).strip('/')}" if split.path.strip("/") else ""
    if not keeps_path and not path.endswith("/v2"):
        path += "/v2"
    return f"{split.scheme}://{split.netloc}{path}", split.netloc


def _capabilities(value: object, url: str, where: str) -> frozenset[str]:
    names = (
        [name.lower() if isinstance(name, str) else "" for name in value] if isinstance(value, list) else [""]
    )
    if not set(names) <= _ALL:
        raise FailedPrecondition(f"malformed {where}: capabilities of {url!r} must be of {sorted(_ALL)}")
    return frozenset(names)


def _flag(table: Mapping[str, Any], name: str, where: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise FailedPrecondition(f"malformed {where}: {name} must be true or false, not {value!r}")
    return value


def _duration(value: object, where: str) -> float:
    """Return seconds of a duration as Go writes it, such as ``1m30s`` or ``500ms``; 0 for an empty text."""
    if value == "":
        return 0.0
    parts = _DURATION.findall(value) if isinstance(value, str) else []
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if not isinstance(value, str) or "".join(map("".join, parts)) != value or seconds <= 0:
        raise FailedPrecondition(
            f"malformed {where}: dial_timeout must be a duration such as '5s' or '500ms', not {value!r}"
        )
    return seconds


def _headers(table: object, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(table, dict):
        raise FailedPrecondition(f"malformed {where}: header must be a table")
    return tuple((name, value) for name, values in table.items() for value in _names(values, where))


def _names(value: object, where: str) -> list[str]:
    values: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values):
        raise FailedPrecondition(f"malformed {where}: a text or a list of texts is expected, not {value!r}")
    return values


def _clients(value: object, directory: str, where: str) -> tuple[tuple[str, str], ...]:
    """Return (certificate, key) pairs: the file has one text, a list of texts, or a list of pairs."""
    pairs: list[tuple[str, str]] = []
    for item in value if isinstance(value, list) else [value]:
        names = _names(item, where)
        if len(names) != (2 if isinstance(item, list) else 1):
            raise FailedPrecondition(f"malformed {where}: client wants certificate and key, not {item!r}")
        key = os.path.join(directory, names[1]) if len(names) == 2 and names[1] else ""
        pairs.append((os.path.join(directory, names[0]), key))
    return tuple(pairs)


def _find_certificates(directory: str) -> Tls:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise FailedPrecondition(f"cannot read {directory}: {error.strerror}") from error
    client: list[tuple[str, str]] = []
    for name in names:
        if name.endswith(".cert"):
            key = f"{name.removesuffix('.cert')}.key"
            certificate = os.path.join(directory, name)
            client.append((certificate, os.path.join(directory, key) if key in names else ""))
    ca = tuple(os.path.join(directory, name) for name in names if name.endswith(".crt"))
    return Tls(ca, tuple(client))


def _directories(domain: str) -> list[str]:
    name, port = _split_port(domain)
    return [*([f"{name}_{port}_"] if port else []), domain, "_default"]


def _split_port(domain: str) -> tuple[str, str]:
    head, colon, tail = domain.rpartition(":")
    return (head, tail) if colon and tail.isdigit() else (domain, "")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
