"""Which sandbox has which address: a pool, and one small file for each lease.

    <directory>/leases/<sandbox id>.json

A lease is on disk before anything is made for it, and it goes last: while its link is still there, it is
marked as released, so that the address is not given away again and the next start finds what is left to do.
Addresses are given out in turn; one that was just given back is the last to be used again.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from shim.errors import AlreadyExists, ResourceExhausted
from shim.kernel import files
from shim.network.port_mappings import PortEntry, clash

log = logging.getLogger(__name__)

VERSION: Final = 1
_SUFFIX: Final = ".json"
_DIRECTORY: Final = "leases"


@dataclass(frozen=True, slots=True)
class Lease:
    """What one sandbox has.

    Attributes:
        sandbox_id: whose it is.
        address: the pod's IPv4 address.
        link: name of the host end of its link.
        ports: what leads to it from outside.
        released: the sandbox needs it no more; link and rules may still be there.
    """

    sandbox_id: str
    address: str
    link: str
    ports: tuple[PortEntry, ...] = ()
    released: bool = False
    version: int = VERSION


class Leases:
    """The leases of one pool. Blocking; for one thread.

    Args:
        directory: of the network's records.
        quarantine: where files go that cannot be read.
    """

    def __init__(self, directory: str, quarantine: str) -> None:
        self._directory = os.path.join(directory, _DIRECTORY)
        self._quarantine = quarantine
        self._leases: dict[str, Lease] = {}
        self._taken: set[str] = set()
        self._after = ""  # the address that was given away last
        os.makedirs(self._directory, 0o700, exist_ok=True)
        self._load()

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, sandbox_id: str) -> Lease | None:
        """Return a sandbox's lease."""
        return self._leases.get(sandbox_id)

    def take(
        self, sandbox_id: str, link: str, ports: tuple[PortEntry, ...], pool: ipaddress.IPv4Network
    ) -> Lease:
        """Give a sandbox a free address and its ports; both are on disk when this returns.

        Args:
            sandbox_id: has no lease yet.
            link: name of its link.
            ports: their pod_ip is filled in here.
            pool: its first address is the gateway's, and never given away.

        Raises:
            AlreadyExists: another sandbox has one of the ports, or this one has a lease.
            ResourceExhausted: no address is free.
        """
        if sandbox_id in self._leases:
            raise AlreadyExists(f"sandbox {sandbox_id!r} has a network already")
        self._check_ports(ports)
        address = self._free_address(pool)
        given = tuple(_to(p, address) for p in ports)
        lease = Lease(sandbox_id, address, link, given)
        self._save(lease)
        return lease

    def release(self, lease: Lease) -> None:
        """Note that a sandbox needs its lease no more; its ports are free from now on."""
        self._save(Lease(lease.sandbox_id, lease.address, lease.link, lease.ports, released=True))

    def drop(self, sandbox_id: str) -> None:
        """Make the address free again. Idempotent."""
        lease = self._leases.pop(sandbox_id, None)
        if lease is not None:
            self._taken.discard(lease.address)
            try:
                os.unlink(self._path(sandbox_id))
            except FileNotFoundError:
                return

    def _check_ports(self, ports: tuple[PortEntry, ...]) -> None:
        for lease in self._leases.values():
            if lease.released:
                continue
            for theirs in lease.ports:
                for ours in ports:
                    if clash(ours, theirs):
                        raise AlreadyExists(
                            f"host port {ours.host_port}/{ours.protocol} is taken by sandbox"
                            f" {lease.sandbox_id!r}"
                        )

    def _free_address(self, pool: ipaddress.IPv4Network) -> str:
        """Return the next address in turn; network, gateway and broadcast are nobody's."""
        size = pool.num_addresses - 3
        last = int(ipaddress.IPv4Address(self._after)) - int(pool[2]) if self._after else -1
        for offset in range(size):
            address = str(pool[2 + (last + 1 + offset) % size])
            if address not in self._taken:
                self._after = address
                return address
        raise ResourceExhausted(
            f"no address is free in {pool}: {len(self._taken)} pods have one; remove pods,"
            " or set network.subnet to a larger range"
        )

    def _save(self, lease: Lease) -> None:
        files.write_atomic(self._path(lease.sandbox_id), msgspec.json.encode(lease))
        self._leases[lease.sandbox_id] = lease
        self._taken.add(lease.address)

    def _path(self, sandbox_id: str) -> str:
        return os.path.join(self._directory, sandbox_id + _SUFFIX)

    def _load(self) -> None:
        newest = 0
        for name in sorted(os.listdir(self._directory)):
            path = os.path.join(self._directory, name)
            if not name.endswith(_SUFFIX) or name.startswith("."):
                os.unlink(path)  # a file that was being written when the daemon was killed
                continue
            try:
                lease = _load(path, name.removesuffix(_SUFFIX))
            except (OSError, ValueError, msgspec.DecodeError) as error:
                log.warning("lease %s cannot be read and is set aside: %s", path, error)
                os.makedirs(self._quarantine, 0o700, exist_ok=True)
                os.replace(path, os.path.join(self._quarantine, f"lease-{name}"))
                continue
            self._leases[lease.sandbox_id] = lease
            self._taken.add(lease.address)
            written_at = os.stat(path).st_mtime_ns
            if written_at > newest:
                newest, self._after = written_at, lease.address


def _load(path: str, sandbox_id: str) -> Lease:
    with open(path, "rb") as file:
        lease = msgspec.json.decode(file.read(), type=Lease)
    if lease.version != VERSION or lease.sandbox_id != sandbox_id:
        raise ValueError(f"it is of version {lease.version}, of sandbox {lease.sandbox_id!r}")
    return lease


def _to(port: PortEntry, address: str) -> PortEntry:
    return PortEntry(port.protocol, port.host_ip, port.host_port, address, port.container_port)
