"""Opening the tables of host ports on a kernel that may lack a part of nftables, or all of it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from shim.errors import FailedPrecondition
from shim.network.hostports import PortTable
from shim.network.netlink import NetlinkError
from shim.network.pools import Pools
from shim.network.port_mappings import PortEntry
from shim.network.settings import BridgeSettings

log = logging.getLogger(__name__)

# What a kernel answers that has no nftables, or not the expressions that our rules need.
_MISSING: Final = (
    errno.EPROTONOSUPPORT,
    errno.EAFNOSUPPORT,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENOENT,
)


class Ports(Protocol):
    """What opens host ports."""

    def exists(self) -> bool:
        """Tell whether what was made is still there."""

    def rebuild(self, entries: Iterable[PortEntry]) -> None:
        """Make all anew, with these ports."""

    def add(self, entries: Sequence[PortEntry]) -> None:
        """Open ports."""

    def remove(self, entries: Sequence[PortEntry]) -> None:
        """Close ports. Idempotent."""

    def close(self) -> None:
        """Close sockets; all else stays."""


class NoPorts:
    """The stand-in where the kernel has no nftables: pods have addresses, but no host ports.

    Args:
        why: the kernel's words.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def exists(self) -> bool:
        """Nothing can be missing."""
        return True

    def rebuild(self, entries: Iterable[PortEntry]) -> None:
        """Warn of ports of a time with nftables."""
        for entry in entries:
            log.warning("host port %d/%s leads nowhere: %s", entry.host_port, entry.protocol, self._why)

    def add(self, entries: Sequence[PortEntry]) -> None:
        """Refuse.

        Raises:
            FailedPrecondition: there are any.
        """
        if entries:
            entry = entries[0]
            raise FailedPrecondition(
                f"host port {entry.host_port}/{entry.protocol} cannot be opened: {self._why}"
            )

    def remove(self, entries: Sequence[PortEntry]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_tables(
    settings: BridgeSettings, ranges: Pools, entries: Iterable[PortEntry]
) -> tuple[Ports, Pools, str]:
    """Make the tables with these ports.

    Returns:
        (what opens ports; the ranges that are left: without IPv6 where nftables has none; why less than
        all was made, or an empty text).

    Raises:
        FailedPrecondition: pods are to be isolated, and nothing can do it. NetlinkError: no permission.
    """
    entries = list(entries)
    first = _try(settings, ranges, entries)
    if isinstance(first, PortTable):
        return first, ranges, ""
    if len(ranges.versions) > 1:
        less = Pools(ranges.v4)
        second = _try(settings, less, entries)
        if isinstance(second, PortTable):
            return second, less, f"pods get no IPv6: nftables of this kernel cannot translate it ({first})"
    why = f"this kernel has no nftables for masquerade and host ports ({first}): load it: modprobe nf_tables"
    if settings.isolated:
        raise FailedPrecondition(f"network.isolated cannot be carried out: {why}")
    return NoPorts(why), ranges, why


def _try(settings: BridgeSettings, ranges: Pools, entries: list[PortEntry]) -> PortTable | NetlinkError:
    try:
        table = PortTable(settings.bridge, ranges, settings.masquerade, settings.isolated)
    except NetlinkError as error:
        return _missing(error)
    try:
        table.rebuild(entries)
    except NetlinkError as error:
        table.close()
        return _missing(error)
    except BaseException:
        table.close()
        raise
    return table


def _missing(error: NetlinkError) -> NetlinkError:
    """Return an error that says what the kernel does not have; raise another."""
    if error.errno not in _MISSING:
        raise error
    return error
