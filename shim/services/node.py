"""The collaborators of the verbs, and what the verbs need of the configuration."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.container import ProcessRef
from shim.model.security import ProfileType
from shim.network.traffic import TrafficReader
from shim.services import processes
from shim.services.background import Background
from shim.services.cdi.library import Library
from shim.services.collaborators import Cgroups, Images, Launcher, Networks, Supervisor, Traffic
from shim.services.flights import Flights
from shim.services.locks import Locks
from shim.services.log_usage import LogUsage
from shim.services.pools import Pools
from shim.services.rates import Rates
from shim.services.records import Records
from shim.services.socket_stock import SocketStock
from shim.services.timeline import Timeline
from shim.services.waiters import Waiters
from shim.store.layout import Layout

if TYPE_CHECKING:
    from shim.services.containers.exec import ExecAhead
    from shim.services.containers.stopping import Stopping

DEFAULT_HANDLER: Final = "cri-shim"
_UNDO_S: Final = 1.0  # a process that the kernel cannot kill must not keep the daemon
DEFAULT_EXEC_OUTPUT_BYTES: Final = (
    8 * 1024 * 1024
)  # both streams: half of what a kubelet takes in one message


@dataclass(frozen=True, slots=True)
class HandlerFeatures:
    """What a runtime handler can do, as Status tells it."""

    recursive_read_only_mounts: bool = True
    user_namespaces: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What the verbs need of the configuration.

    Attributes:
        hostname: of the node; what containers on the host network see.
        netns_dir: where network namespaces are pinned, as ``cri-shim-<sandbox id>``.
        ip_pref: which version of IP a pod's primary address has: ``ipv4``, ``ipv6``, or ``cni``: that of the
            first which its network names.
        handlers: the runtime handlers by name; the empty name in a request means ``default_handler``.
        log_line_bytes: longer lines of output are split in a container's log.
        exec_output_bytes: how much output of one ExecSync is kept, both streams together.
        exec_drain_s: how long output is awaited after the end of an exec whose children keep the pipe.
        userns_lack: why pods cannot have a user namespace; empty where they can.
        nofile_soft, nofile_hard: limits of open files in a container.
        seccomp_default: the profile of containers whose request says nothing.
        selinux: ``auto``, ``on`` or ``off`` (``confinement.selinux.policy``).
        seccomp_log: whether the kernel logs each call that a profile does not allow.
    """

    hostname: str
    netns_dir: str = "/run/netns"
    ip_pref: str = "ipv4"
    handlers: Mapping[str, HandlerFeatures] = field(
        default_factory=lambda: {DEFAULT_HANDLER: HandlerFeatures()}
    )
    default_handler: str = DEFAULT_HANDLER
    log_line_bytes: int = 16 * 1024
    exec_output_bytes: int = DEFAULT_EXEC_OUTPUT_BYTES
    exec_drain_s: float = 0.2
    nofile_soft: int = 1024
    nofile_hard: int = 524288
    seccomp_default: ProfileType = ProfileType.UNCONFINED
    seccomp_log: bool = False
    selinux: str = "auto"
    userns_lack: str = ""

    def check_userns(self, handler: str) -> None:
        """Check that pods of a runtime handler can have a user namespace.

        Raises:
            FailedPrecondition: they cannot, and why.
        """
        if not self.handlers[handler or self.default_handler].user_namespaces:
            raise FailedPrecondition(
                "pods cannot have a user namespace on this node: "
                + (self.userns_lack or "it was not tried, since the daemon is just starting")
            )

    def check_handler(self, name: str) -> None:
        """Check that there is a runtime handler of this name; the empty name is the default one.

        Raises:
            InvalidArgument: there is none; the text names those there are.
        """
        if name and name not in self.handlers:
            raise InvalidArgument(
                f"no runtime handler {name!r} is configured; there are: {', '.join(sorted(self.handlers))}"
            )


@dataclass
class Node:
    """Everything that verbs work with.

    Attributes:
        cdi: the devices that files of the node describe.
        rates, logs, traffic: for the statistics; used in the thread of ``pools.stats`` alone.
        making: ids of sandboxes that are being made; no list shows them.
        inits: ids of sandboxes whose init runs.
        stops: the stops under way, by container id.
        execs_ahead: execs that wait for their clients.
        sockets: in networks of pods, for connections to come.
        exec_numbers: numbers for the cgroups of execs, never the same twice in the life of a daemon.
        timeline: what has happened, for a person who asks.
        send_signal: sends a signal to a process, if it is still the same one.
    """

    settings: Settings
    layout: Layout
    boot_id: str
    records: Records
    images: Images
    networks: Networks
    cgroups: Cgroups
    supervisor: Supervisor
    launcher: Launcher
    pools: Pools
    cdi: Library = field(default_factory=Library)
    traffic: Traffic = field(default_factory=TrafficReader)
    rates: Rates = field(default_factory=Rates)
    logs: LogUsage = field(default_factory=LogUsage)
    locks: Locks = field(default_factory=Locks)
    flights: Flights = field(default_factory=Flights)
    background: Background = field(default_factory=Background)
    waiters: Waiters = field(default_factory=Waiters)
    stops: dict[str, tuple[Stopping, asyncio.Task[None]]] = field(default_factory=dict)
    execs_ahead: set[ExecAhead] = field(default_factory=set)
    sockets: SocketStock = field(default_factory=SocketStock)
    making: set[str] = field(default_factory=set)
    inits: set[str] = field(default_factory=set)
    timeline: Timeline = field(default_factory=Timeline)
    exec_numbers: Iterator[int] = field(default_factory=lambda: itertools.count(time.time_ns()))
    now_ns: Callable[[], int] = time.time_ns
    send_signal: Callable[[ProcessRef, int], None] = processes.send_signal

    async def close(self) -> None:
        """End what is under way, in the order in which one thing needs the other; containers go on."""
        if self.execs_ahead:
            await asyncio.wait([ahead.close() for ahead in self.execs_ahead.copy()], timeout=_UNDO_S)
        self.sockets.close()
        await self.flights.close()
        await self.background.close()
        await self.timeline.close()
        await asyncio.to_thread(self.pools.close)
        self.traffic.close()
