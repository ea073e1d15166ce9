"""Which proxy a registry is asked through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go reads them. Pure.

Users set them for containerd, whose rules these are: a name in NO_PROXY covers its subdomains, one with a
leading dot only those, ranges such as 10.0.0.0/8 count, and loopback is never asked through a proxy.

Source: golang.org/x/net/http/httpproxy, documentation of ``Config``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from shim.errors import FailedPrecondition

_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxies by the scheme of what is asked for; empty: none. Their URLs may hold a password."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    direct: tuple[str, ...] = ()

    def for_url(self, url: str) -> str:
        """Return the URL of the proxy for ``url``, empty if it is asked directly."""
        split = urlsplit(url)
        proxy = self.https if split.scheme == "https" else self.http
        host = (split.hostname or "").rstrip(".")
        if not proxy or self._is_direct(host, split.port or _PORTS.get(split.scheme, 0)):
            return ""
        return proxy

    def _is_direct(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_covers(pattern, host, address, port) for pattern in self.direct)


def from_environment(environ: Mapping[str, str]) -> Proxies:
    """Return what the environment says.

    Raises:
        FailedPrecondition: a proxy is no URL; the message has the variable's name, not its value.
    """
    return Proxies(
        http=_proxy(environ, "HTTP_PROXY"),
        https=_proxy(environ, "HTTPS_PROXY"),
        direct=tuple(
            part.strip().lower()
            for part in (environ.get("NO_PROXY") or environ.get("no_proxy") or "").split(",")
            if part.strip()
        ),
    )


def show(proxy: str) -> str:
    """Return scheme, host and port of a proxy, without user and password."""
    split = urlsplit(proxy)
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}"


def _proxy(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name) or environ.get(name.lower()) or ""
    if not value:
        return ""
    url = value if "://" in value else f"http://{value}"
    try:
        split = urlsplit(url)
        usable = split.scheme in _SCHEMES and bool(split.hostname) and split.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise FailedPrecondition(
            f"{name} in the daemon's environment is no proxy: such as http://proxy:3128 is expected"
        )
    return url


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _covers(
    pattern: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int
) -> bool:
    if pattern == "*":
        return True
    if "/" in pattern:
        try:
            return address is not None and address in ipaddress.ip_network(pattern, strict=False)
        except ValueError:
            return False
    name, wanted_port = _split_port(pattern)
    if wanted_port and wanted_port != str(port):
        return False
    wanted = _address(name.strip("[]"))
    if wanted is not None or address is not None:
        return wanted == address
    name = name.removeprefix("*") if name.startswith("*.") else name
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")


def _split_port(text: str) -> tuple[str, str]:
    """Return (name, port); an IPv6 address without brackets has no port."""
    head, colon, tail = text.rpartition(":")
    if colon and tail.isdigit() and (":" not in head or head.startswith("[")):
        return head, tail
    return text, ""
