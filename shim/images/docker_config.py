"""Docker's ``config.json``: which credentials it has for a host. Pure: bytes in, values out.

    {"auths": {"registry.example": {"auth": base64 of user:password}},
     "credHelpers": {"registry.example": "ecr-login"}, "credsStore": "pass"}

Keys of ``auths`` may be URLs, as docker writes them, have paths, as podman writes them, and have ``*`` in
parts of the host name, as the kubelet reads them; the longest path that fits counts.

Source: docker, "docker login"; containers-auth.json(5); Kubernetes, "Configure Nodes to Authenticate to a
Private Registry"; docker-credential-helpers, README.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shim.errors import FailedPrecondition
from shim.images.auth import Credential

_DOCKER_HOSTS: Final = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))
_DOCKER_KEY: Final = "https://index.docker.io/v1/"  # how docker has always called its own registry
_TOKEN_USER: Final = "<token>"  # noqa: S105 (no secret) a helper says so when its secret is an identity token
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Helper:
    """A program that knows credentials: ``docker-credential-<name>``, asked for ``server``."""

    name: str
    server: str

    @property
    def program(self) -> str:
        """The program's name."""
        return f"docker-credential-{self.name}"


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """What a file says. ``auths`` and ``helpers`` by their keys as written."""

    auths: Mapping[str, Credential] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    def find_helper(self, netloc: str) -> Helper | None:
        """Return the program to ask for a host's credentials."""
        server = _DOCKER_KEY if netloc in _DOCKER_HOSTS else netloc
        for key, name in self.helpers.items():
            if _fits(_split(key)[0], netloc):
                return Helper(name, server)
        return Helper(self.store, server) if self.store else None

    def find(self, netloc: str, repository: str) -> tuple[str, Credential] | None:
        """Return (key, credential) of the best entry for a host and repository."""
        found: list[tuple[bool, int, str]] = []
        for key in self.auths:
            host, path = _split(key)
            if _fits(host, netloc) and (not path or f"{repository}/".startswith(f"{path}/")):
                found.append(("*" not in host, len(path), key))
        if not found:
            return None
        key = max(found)[2]
        return key, self.auths[key]


def parse(data: bytes, where: str) -> DockerConfig:
    """Return what a config.json says.

    Raises:
        FailedPrecondition: it is malformed; the message names the file and key, never a value.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FailedPrecondition(f"malformed {where}: it is no JSON") from None
    if not isinstance(document, dict):
        raise FailedPrecondition(f"malformed {where}: a JSON object is expected")
    auths: dict[str, Credential] = {}
    for key, entry in _object(document, "auths", where).items():
        credential = _credential(entry, f"malformed {where}: auths, {key!r}")
        if credential is not None:
            auths[key] = credential
    helpers = _object(document, "credHelpers", where)
    store = document.get("credsStore") or ""
    for name in (*helpers.values(), *([store] if store else [])):
        if not isinstance(name, str) or not _HELPER.fullmatch(name):
            raise FailedPrecondition(f"malformed {where}: {str(name)[:50]!r} cannot name a credential helper")
    return DockerConfig(auths, helpers, store)


def parse_answer(data: bytes, where: str) -> Credential | None:
    """Return what a helper printed; None where it has nothing.

    Raises:
        FailedPrecondition: it is not what a helper prints.
    """
    try:
        document = json.loads(data)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FailedPrecondition(f"{where} did not print credentials as JSON") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise FailedPrecondition(f"{where} did not print credentials as JSON")
    if username == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username, secret) if username else None


def _object(document: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise FailedPrecondition(f"malformed {where}: {key} must be an object")
    return value


def _credential(entry: object, where: str) -> Credential | None:
    if not isinstance(entry, dict) or not all(
        isinstance(entry.get(name) or "", str)
        for name in ("auth", "username", "password", "identitytoken", "registrytoken")
    ):
        raise FailedPrecondition(f"{where}: an object of texts is expected")
    username, password = entry.get("username") or "", entry.get("password") or ""
    if entry.get("auth"):
        try:
            decoded = base64.b64decode(entry["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise FailedPrecondition(f"{where}: auth is not base64") from None
        username, colon, password = decoded.partition(":")
        if not colon:
            raise FailedPrecondition(f"{where}: auth is not base64 of user:password")
        password = password.strip("\0")
    identity, registry = entry.get("identitytoken") or "", entry.get("registrytoken") or ""
    if not (username or identity or registry):
        return None  # docker leaves an empty entry where a helper has the secret
    return Credential(username, password, identity, registry)


def _split(key: str) -> tuple[str, str]:
    """Return (host, path) of a key; what docker's old API had as path counts as none."""
    text = key.partition("://")[2] if "://" in key else key
    host, _, path = text.partition("/")
    path = path.strip("/")
    return host, "" if path in ("v1", "v2") else path


def _fits(pattern: str, netloc: str) -> bool:
    if pattern == netloc or (pattern in _DOCKER_HOSTS and netloc in _DOCKER_HOSTS):
        return True
    wanted, _, wanted_port = pattern.partition(":")
    host, _, port = netloc.partition(":")
    parts, labels = wanted.split("."), host.split(".")
    return (
        "*" in wanted
        and wanted_port == port
        and len(parts) == len(labels)
        and all(fnmatch.fnmatchcase(label, part) for part, label in zip(parts, labels, strict=True))
    )
