"""The address ranges that pods get their addresses from: one of IPv4, one of IPv6, or one of each. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shim.errors import InvalidArgument
from shim.network.links import Network

LONGEST_PREFIX = {4: 30, 6: 126}  # two addresses for pods beside those of network, gateway and broadcast


@dataclass(frozen=True, slots=True)
class Pools:
    """One range or none for each version of IP; ``str`` has them with a comma between."""

    v4: ipaddress.IPv4Network | None = None
    v6: ipaddress.IPv6Network | None = None

    def __iter__(self) -> Iterator[Network]:
        yield from (pool for pool in (self.v4, self.v6) if pool is not None)

    def __str__(self) -> str:
        return ",".join(map(str, self))

    def get(self, version: int) -> Network | None:
        """Return the range of IP version 4 or 6."""
        return self.v4 if version == 4 else self.v6

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions of IP that pods get."""
        return tuple(pool.version for pool in self)


def parse(what: str, text: str) -> Pools:
    """Return the first range of each version in a list with commas; an empty text has none.

    Args:
        what: names the text in errors.
        text: such as ``10.88.0.0/16,fd00::/64``.

    Raises:
        InvalidArgument: it is no such list, or a range has no room for a pod.
    """
    found: dict[int, Network] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            network = ipaddress.ip_network(part)
        except ValueError as error:
            raise InvalidArgument(f"{what} {text!r} is no address range: {error}") from None
        if network.prefixlen > LONGEST_PREFIX[network.version]:
            raise InvalidArgument(f"{what} {text!r} has no room for a pod beside the gateway")
        found.setdefault(network.version, network)
    return of(found)


def at_least_one(what: str, ranges: Pools) -> None:
    """Refuse ranges that are none.

    Raises:
        InvalidArgument: there is none; names ``what``.
    """
    if not ranges.versions:
        raise InvalidArgument(f"{what} names no address range")


def of(by_version: Mapping[int, Network]) -> Pools:
    """Return ranges that are kept by version of IP."""
    v4, v6 = by_version.get(4), by_version.get(6)
    return Pools(
        v4 if isinstance(v4, ipaddress.IPv4Network) else None,
        v6 if isinstance(v6, ipaddress.IPv6Network) else None,
    )
