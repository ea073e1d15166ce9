"""Which sandbox has which addresses: pools, and one small file for each lease.

    <directory>/leases/<sandbox id>.json

A lease is on disk before anything is made for it, and it goes last: while its link is still there, it is
marked as released, so that the address is not given away again and the next start finds what is left to do.
Addresses are given out in turn; one that was just given back is the last to be used again.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from shim.errors import AlreadyExists, ResourceExhausted
from shim.kernel import files
from shim.network.links import Network
from shim.network.port_mappings import PortEntry, clash, key
from shim.store import records

log = logging.getLogger(__name__)

VERSION: Final = 2  # 1 knew IPv4 alone
_READABLE: Final = (1, 2)
_SUFFIX: Final = ".json"
_DIRECTORY: Final = "leases"


@dataclass(frozen=True, slots=True)
class Lease:
    """What one sandbox has.

    Attributes:
        sandbox_id: whose it is.
        address: the pod's IPv4 address; empty for none.
        link: name of the host end of its link.
        ports: what leads to it from outside.
        released: the sandbox needs it no more; link and rules may still be there.
        address6: the pod's IPv6 address; empty for none.
        failure: why its link could not be removed yet.
    """

    sandbox_id: str
    address: str
    link: str
    ports: tuple[PortEntry, ...] = ()
    released: bool = False
    address6: str = ""
    failure: str = ""
    version: int = VERSION

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those that it has, IPv4 first."""
        return tuple(filter(None, (self.address, self.address6)))


class Leases:
    """The leases of one network. Blocking; for one thread.

    Args:
        directory: of the network's records.
        quarantine: where files go that cannot be read.
    """

    def __init__(self, directory: str, quarantine: str) -> None:
        self._directory = os.path.join(directory, _DIRECTORY)
        self._quarantine = quarantine
        self._leases: dict[str, Lease] = {}
        self._taken: set[str] = set()
        self._ports: dict[tuple[int, str, int], dict[str, tuple[PortEntry, ...]]] = {}  # then by sandbox
        self._after: dict[int, str] = {}  # the address that was given away last, by IP version
        os.makedirs(self._directory, 0o700, exist_ok=True)
        self._load()

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, sandbox_id: str) -> Lease | None:
        """Return a sandbox's lease."""
        return self._leases.get(sandbox_id)

    def versions_in_use(self) -> set[int]:
        """Return the IP versions of which a lease has an address."""
        found = {4 for lease in self._leases.values() if lease.address}
        return found | {6 for lease in self._leases.values() if lease.address6}

    def take(
        self, sandbox_id: str, link: str, ports: tuple[PortEntry, ...], pools: Iterable[Network]
    ) -> Lease:
        """Give a sandbox free addresses and its ports; all are on disk when this returns.

        Args:
            sandbox_id: has no lease yet.
            link: name of its link.
            ports: their pod_ip is filled in here.
            pools: of each the first address is the gateway's, and never given away.

        Raises:
            AlreadyExists: another sandbox has one of the ports, or this one has a lease.
            ResourceExhausted: no address is free.
        """
        if sandbox_id in self._leases:
            raise AlreadyExists(f"sandbox {sandbox_id!r} has a network already")
        self._check_ports(ports)
        found: dict[int, str] = {pool.version: self._free_address(pool) for pool in pools}
        given = tuple(dataclasses.replace(port, pod_ip=found[port.version]) for port in ports)
        lease = Lease(sandbox_id, found.get(4, ""), link, given, address6=found.get(6, ""))
        self._save(lease)
        self._after |= found
        return lease

    def without_ipv6(self, lease: Lease) -> Lease:
        """Take the IPv6 address back from a sandbox that refuses it, and return what is left."""
        left = tuple(port for port in lease.ports if port.version == 4)
        self._forget(lease)
        changed = dataclasses.replace(lease, address6="", ports=left)
        self._save(changed)
        return changed

    def release(self, lease: Lease, failure: str = "") -> None:
        """Note that a sandbox needs its lease no more, or why it is not gone yet; its ports are free.

        Also on a full disk: a pod that has filled it must come to its end.
        """
        released = dataclasses.replace(lease, released=True, failure=failure)
        records.replace(self._path(lease.sandbox_id), released)
        self._remember(released)

    def drop(self, sandbox_id: str) -> None:
        """Make the addresses free again. Idempotent."""
        lease = self._leases.pop(sandbox_id, None)
        if lease is not None:
            self._forget(lease)
            try:
                os.unlink(self._path(sandbox_id))
            except FileNotFoundError:
                return

    def _check_ports(self, ports: tuple[PortEntry, ...]) -> None:
        for ours in ports:
            for sandbox_id, entries in self._ports.get(key(ours), {}).items():
                if any(clash(ours, theirs) for theirs in entries):
                    raise AlreadyExists(
                        f"host port {ours.host_port}/{ours.protocol} is taken by sandbox {sandbox_id!r}"
                    )

    def _free_address(self, pool: Network) -> str:
        """Return the next address in turn; network, gateway and broadcast are nobody's."""
        size = pool.num_addresses - 3
        first, after = int(pool[2]), self._after.get(pool.version)
        last = int(ipaddress.ip_address(after)) - first if after else -1
        for offset in range(min(size, len(self._taken) + 1)):
            address = str(pool[2 + (last + 1 + offset) % size])
            if address not in self._taken:
                return address
        raise ResourceExhausted(
            f"no address is free in {pool}: {len(self._leases)} pods have one; remove pods,"
            " or set network.subnet to a larger range"
        )

    def _save(self, lease: Lease) -> None:
        files.write_atomic(self._path(lease.sandbox_id), msgspec.json.encode(lease))
        self._remember(lease)

    def _remember(self, lease: Lease) -> None:
        self._leases[lease.sandbox_id] = lease
        self._taken.update(lease.addresses)
        for port in lease.ports:
            if lease.released:
                self._free_port(port, lease.sandbox_id)
            else:
                same = tuple(other for other in lease.ports if key(other) == key(port))
                self._ports.setdefault(key(port), {})[lease.sandbox_id] = same

    def _forget(self, lease: Lease) -> None:
        self._taken.difference_update(lease.addresses)
        for port in lease.ports:
            self._free_port(port, lease.sandbox_id)

    def _free_port(self, port: PortEntry, sandbox_id: str) -> None:
        owners = self._ports.get(key(port), {})
        owners.pop(sandbox_id, None)
        if not owners:
            self._ports.pop(key(port), None)

    def _path(self, sandbox_id: str) -> str:
        return os.path.join(self._directory, sandbox_id + _SUFFIX)

    def _load(self) -> None:
        newest = dict.fromkeys((4, 6), 0)
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
            self._remember(lease)
            written_at = os.stat(path).st_mtime_ns
            for version, address in ((4, lease.address), (6, lease.address6)):
                if address and written_at > newest[version]:
                    newest[version], self._after[version] = written_at, address


def _load(path: str, sandbox_id: str) -> Lease:
    with open(path, "rb") as file:
        lease = msgspec.json.decode(file.read(), type=Lease)
    if lease.version not in _READABLE or lease.sandbox_id != sandbox_id:
        raise ValueError(f"it is of version {lease.version}, of sandbox {lease.sandbox_id!r}")
    for address in (*lease.addresses, *(port.pod_ip for port in lease.ports)):
        ipaddress.ip_address(address)
    return dataclasses.replace(lease, version=VERSION)
