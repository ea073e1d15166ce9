"""Which hosts to ask for an image, in which order: ``certs.d/<host>/hosts.toml`` as containerd reads it.

A registry's directory is ``<host>_<port>_``, ``<host>:<port>`` or ``_default``, whichever is there first. The
file's ``[host."…"]`` tables are mirrors, asked in order; ``server`` (or the registry itself) comes last. A
directory without hosts.toml may hold certificates as docker has them (``*.crt``; ``*.cert`` with ``*.key``).
Files are read for every pull, so that a change counts at once.

Source: containerd, docs/hosts.md.
"""

from __future__ import annotations

import ipaddress
import os
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
    """

    base: str
    capabilities: frozenset[str] = _ALL
    headers: tuple[tuple[str, str], ...] = ()
    tls: Tls = Tls()
    namespace: str = ""

    @property
    def netloc(self) -> str:
        """Host and port."""
        return urlsplit(self.base).netloc


def load(config_paths: tuple[str, ...], domain: str) -> tuple[Host, ...]:
    """Return the hosts for a registry's domain, in the order to ask them. Reads files.

    Raises:
        FailedPrecondition: a file is malformed; the message names it.
    """
    for root in config_paths:
        for name in _directories(domain):
            directory = os.path.join(root, name)
            if not os.path.isdir(directory):
                continue
            path = os.path.join(directory, _FILE)
            try:
                with open(path, "rb") as file:
                    return parse(file.read(), domain, directory)
            except FileNotFoundError:
                return (replace(default_host(domain), tls=_find_certificates(directory)),)
            except OSError as error:
                raise FailedPrecondition(f"cannot read {path}: {error.strerror}") from error
    return (default_host(domain),)


def default_host(domain: str) -> Host:
    """Return the registry itself: https, but for http on loopback ports other than 443."""
    if domain == _DOCKER:
        return Host(f"https://{_DOCKER_HOST}/v2")
    name, port = _split_port(domain)
    scheme = "http" if _is_loopback(name) and port not in ("", "443") else "https"
    return Host(f"{scheme}://{domain}/v2")


def parse(data: bytes, domain: str, directory: str) -> tuple[Host, ...]:
    """Return what a hosts.toml says. Pure; relative paths are taken from ``directory``.

    Raises:
        FailedPrecondition: it is malformed.
    """
    where = os.path.join(directory, _FILE)
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"malformed {where}: {error}") from error
    tables = document.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise FailedPrecondition(
            f'malformed {where}: "host" must hold tables such as [host."https://mirror"]'
        )
    hosts = [_host(url, table, domain, directory) for url, table in tables.items()]
    server = document.get("server", "")
    if not isinstance(server, str):
        raise FailedPrecondition(f'malformed {where}: "server" must be a text')
    hosts.append(_host(server or default_host(domain).base, document, domain, directory))
    return tuple(hosts)


def _host(url: str, table: Mapping[str, Any], domain: str, directory: str) -> Host:
    where = os.path.join(directory, _FILE)
    split = urlsplit(url if "://" in url else f"{_scheme(url)}://{url}")
    if split.scheme not in ("http", "https") or not split.hostname:
        raise FailedPrecondition(f"malformed {where}: {url!r} is no http or https URL")
    path = split.path.rstrip("/")
    if not table.get("override_path") and not path.endswith("/v2"):
        path += "/v2"
    capabilities = table.get("capabilities", sorted(_ALL))
    if not isinstance(capabilities, list) or not set(capabilities) <= _ALL:
        raise FailedPrecondition(f"malformed {where}: capabilities of {url!r} must be of {sorted(_ALL)}")
    stands_for_other = split.netloc != domain and (domain, split.netloc) != (_DOCKER, _DOCKER_HOST)
    return Host(
        base=f"{split.scheme}://{split.netloc}{path}",
        capabilities=frozenset(capabilities),
        headers=_headers(table.get("header", {}), where),
        tls=Tls(
            ca=tuple(os.path.join(directory, name) for name in _names(table.get("ca", []), where)),
            client=_clients(table.get("client", []), directory, where),
            skip_verify=bool(table.get("skip_verify", False)),
        ),
        namespace=domain if stands_for_other else "",
    )


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
        if len(names) not in (1, 2):
            raise FailedPrecondition(f"malformed {where}: client wants certificate and key, not {item!r}")
        key = os.path.join(directory, names[1]) if len(names) == 2 and names[1] else ""
        pairs.append((os.path.join(directory, names[0]), key))
    return tuple(pairs)


def _find_certificates(directory: str) -> Tls:
    names = sorted(os.listdir(directory))
    client = tuple(
        (os.path.join(directory, name), os.path.join(directory, f"{name[:-5]}.key"))
        for name in names
        if name.endswith(".cert") and f"{name[:-5]}.key" in names
    )
    return Tls(
        ca=tuple(os.path.join(directory, name) for name in names if name.endswith(".crt")), client=client
    )


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


def _scheme(netloc: str) -> str:
    name, port = _split_port(netloc.partition("/")[0])
    return "http" if _is_loopback(name) and port not in ("", "443") else "https"
