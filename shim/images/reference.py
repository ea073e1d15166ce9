"""References to images, by the grammar that docker made and everybody keeps. Pure.

    reference = [domain "/"] path [":" tag] ["@" digest]

Source: distribution/reference, grammar in its documentation; docker's defaults: domain ``docker.io``, path
``library/…`` there, tag ``latest``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from shim.errors import InvalidArgument

DEFAULT_DOMAIN: Final = "docker.io"
_LEGACY_DOMAIN: Final = "index.docker.io"
_OFFICIAL: Final = "library/"
_MAX_NAME: Final = 255

_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?", re.ASCII)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]+", re.ASCII)
_HEX_LENGTHS: Final = {"sha256": 64, "sha512": 128}
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole reference. It has a tag, or a digest, or both; ``str`` gives the normal form."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Domain and path: ``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def object(self) -> str:
        """What a registry is asked for: the digest, or else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    def canonical(self) -> Reference:
        """Return the reference that counts: with a digest, a tag says nothing more (as in containerd)."""
        return Reference(self.domain, self.path, "", self.digest) if self.digest else self

    def with_digest(self, digest: str) -> Reference:
        """Return the same name at a digest, without tag."""
        return Reference(self.domain, self.path, "", digest)


def parse(text: str) -> Reference:
    """Return the reference that ``text`` means, defaults filled in.

    Raises:
        InvalidArgument: with the part that is wrong.
    """
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise InvalidArgument(f"invalid reference {text!r}: {digest!r} is no digest of a known kind")
    if _IDENTIFIER.fullmatch(rest):
        raise InvalidArgument(f"invalid reference {text!r}: 64 hex digits are an id, not a name")
    domain, remainder = _split_domain(rest)
    slash = remainder.rfind("/")
    colon = remainder.find(":", slash + 1)
    path, tag = (remainder, "") if colon < 0 else (remainder[:colon], remainder[colon + 1 :])
    if colon >= 0 and not _TAG.fullmatch(tag):
        raise InvalidArgument(f"invalid reference {text!r}: {tag!r} is no tag")
    if not _DOMAIN.fullmatch(domain):
        raise InvalidArgument(f"invalid reference {text!r}: {domain!r} is no host name")
    if not _PATH.fullmatch(path):
        why = "must be lower case" if _PATH.fullmatch(path.lower()) else "has characters that are not allowed"
        raise InvalidArgument(f"invalid reference {text!r}: the name {path!r} {why}")
    if len(domain) + 1 + len(path) > _MAX_NAME:
        raise InvalidArgument(
            f"invalid reference {text[:80]!r}…: the name has more than {_MAX_NAME} characters"
        )
    return Reference(domain, path, tag or ("" if digest else "latest"), digest)


def is_digest(text: str) -> bool:
    """Tell whether ``text`` is a digest of an algorithm that is known here: others could not be verified."""
    algorithm, _, value = text.partition(":")
    return len(value) == _HEX_LENGTHS.get(algorithm) and _HEX.fullmatch(value) is not None


def _split_domain(text: str) -> tuple[str, str]:
    """Return (domain, rest), defaults filled in: a first part without dot, colon or capitals is no host."""
    first, slash, rest = text.partition("/")
    if not slash or (
        "." not in first and ":" not in first and first != "localhost" and first.lower() == first
    ):
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest
