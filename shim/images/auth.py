"""How to be let in by a registry: basic and bearer. Pure: challenges in, headers and token requests out.

Source: RFC 9110 section 11 (challenges), distribution "Token Authentication Specification" and "Oauth2 Token
Authentication". A secret never appears in a repr or a message.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.image import Auth

_PARAMETER: Final = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]*))\s*,?')
_SCHEME: Final = re.compile(r"\s*([A-Za-z]+)(?:\s+|$)")
_TOKEN: Final = re.compile(r"[!-~]+")
_CLIENT_ID: Final = "cri-shim"
_EARLY_S: Final = 10.0  # a token that ends so soon is not used any more
_DEFAULT_LIFE_S: Final = 60.0  # of a token that names none (distribution: token specification)
_MAX_SCOPES: Final = 10
_DOCKER_NAMES: Final = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))


class Unauthorized(FailedPrecondition):
    """The registry did not let us in."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way that a registry offers. ``scheme`` in lower case."""

    scheme: str
    parameters: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Return a parameter, empty if it is missing."""
        return next((value for key, value in self.parameters if key == name), "")


@dataclass(frozen=True, slots=True)
class Credential:
    """What is sent to one host; empty fields are not there."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """Return the value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """How to get a bearer token: a GET with ``parameters``, or a POST with them as a form."""

    method: str
    url: str
    parameters: tuple[tuple[str, str], ...] = field(repr=False)
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; good until ``expires_at_s`` of the caller's clock."""

    value: str = field(repr=False)
    expires_at_s: float


def credential_for(auth: Auth | None, netloc: str) -> Credential | None:
    """Return what ``auth`` (CRI AuthConfig) has for a host; None if nothing, or if it is for another host.

    Raises:
        InvalidArgument: ``auth`` is not base64 of ``user:password``.
    """
    if auth is None:
        return None
    if auth.server_address and not _same_server(auth.server_address, netloc):
        return None
    username, password = auth.username, auth.password
    if not username and auth.auth:
        try:
            decoded = base64.b64decode(auth.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument("the auth of the request is not base64") from None
        username, colon, password = decoded.partition(":")
        if not colon:
            raise InvalidArgument("the auth of the request is not of the form user:password")
        password = password.strip("\0")
    if not (username or auth.identity_token or auth.registry_token):
        return None
    return Credential(username, password, auth.identity_token, auth.registry_token)


def _same_server(address: str, netloc: str) -> bool:
    host = urlsplit(address if "://" in address else f"https://{address}").netloc
    return host == netloc or (host in _DOCKER_NAMES and netloc in _DOCKER_NAMES)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges of WWW-Authenticate headers, bearer first."""
    challenges: list[Challenge] = []
    for header in headers:
        pos = 0
        while match := _SCHEME.match(header, pos):
            pos = match.end()
            parameters: list[tuple[str, str]] = []
            while pair := _PARAMETER.match(header, pos):
                name, quoted, plain = pair.groups()
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                parameters.append((name.lower(), value))
                pos = pair.end()
            challenges.append(Challenge(match[1].lower(), tuple(parameters)))
    return sorted(challenges, key=lambda challenge: challenge.scheme != "bearer")


def token_request(
    challenge: Challenge, scope: str, credential: Credential | None, registry_url: str
) -> TokenRequest:
    """Return how to get the token that a bearer challenge asks for.

    Args:
        challenge: of the registry.
        scope: what we need, asked for beside what the challenge names.
        credential: to be shown; None for an anonymous token.
        registry_url: whose challenge it is.

    Raises:
        Unauthorized: the challenge names no usable place, or one where a secret would travel in the clear.
    """
    realm = challenge.get("realm")
    split = urlsplit(realm)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise Unauthorized(f"{registry_url}: the registry names no usable place for tokens ({realm[:100]!r})")
    if credential and split.scheme == "http" and registry_url.startswith("https:"):
        raise Unauthorized(
            f"{registry_url}: the registry wants credentials sent to {realm!r} without encryption"
        )
    service = [("service", challenge.get("service"))] if challenge.get("service") else []
    # What the registry asks for is right where it keeps the image under another name, as proxies do.
    scopes = list(dict.fromkeys((*([scope] if scope else []), *challenge.get("scope").split()[:_MAX_SCOPES])))
    if credential and credential.identity_token:
        form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", credential.identity_token),
            ("client_id", _CLIENT_ID),
            ("scope", " ".join(scopes)),
        ]
        return TokenRequest("POST", realm, (*service, *form))
    query = [*service, *(("scope", each) for each in scopes)]
    if credential and credential.username:
        query.append(("account", credential.username))
        return TokenRequest("GET", realm, tuple(query), credential.basic())
    return TokenRequest("GET", realm, tuple(query))


def parse_token(body: bytes, now_s: float, where: str) -> Token:
    """Return the token of a token server's answer."""
    try:
        document = json.loads(body)
        value = document.get("token") or document.get("access_token")
        life = document.get("expires_in") or _DEFAULT_LIFE_S
    except (ValueError, AttributeError, RecursionError):
        raise Unauthorized(f"{where}: the token server's answer is no JSON object") from None
    if not isinstance(value, str) or not _TOKEN.fullmatch(value) or not isinstance(life, (int, float)):
        raise Unauthorized(f"{where}: the token server's answer has no token")
    return Token(value, now_s + max(float(life), _DEFAULT_LIFE_S) - _EARLY_S)
