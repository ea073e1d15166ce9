"""The collaborators of the verbs, and the little that all verbs do with them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from shim.errors import AlreadyExists, InvalidArgument, NotFound
from shim.model.container import ContainerStatus, ProcessRef
from shim.model.sandbox import SandboxStatus
from shim.services import processes
from shim.services.background import Background
from shim.services.collaborators import Cgroups, Images, Networks, Supervisor
from shim.services.flights import Flights
from shim.services.locks import Locks
from shim.services.pools import Pools
from shim.services.views import ContainerView, SandboxView
from shim.services.waiters import Waiters
from shim.store.containers import ContainerStore
from shim.store.layout import Layout
from shim.store.sandboxes import SandboxStore

if TYPE_CHECKING:
    from shim.services.containers.stopping import Stopping

DEFAULT_EXEC_OUTPUT_BYTES: Final = (
    8 * 1024 * 1024
)  # both streams: half of what a kubelet takes in one message


@dataclass(frozen=True, slots=True)
class HandlerFeatures:
    """What a runtime handler can do, as Status tells it."""

    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What the verbs need of the configuration.

    Attributes:
        hostname: of the node; what containers on the host network see.
        netns_dir: where network namespaces are pinned, as ``cri-shim-<sandbox id>``.
        handlers: the runtime handlers by name; the empty name in a request means ``default_handler``.
        max_log_line_bytes: longer lines of output are split.
        exec_output_bytes: how much output of one ExecSync is kept, both streams together.
        exec_drain_s: how long output is awaited after the end of an exec whose children keep the pipe.
        start_timeout_s: how long a process may take from fork to execve; a host path on a dead file server
            ends there.
    """

    hostname: str
    netns_dir: str = "/run/netns"
    handlers: Mapping[str, HandlerFeatures] = MappingProxyType({"cri-shim": HandlerFeatures()})
    default_handler: str = "cri-shim"
    max_log_line_bytes: int = 16 * 1024
    exec_output_bytes: int = DEFAULT_EXEC_OUTPUT_BYTES
    exec_drain_s: float = 0.2
    start_timeout_s: float = 60.0


@dataclass
class Node:
    """Everything that verbs work with.

    Attributes:
        making: ids of sandboxes that are being made; no list shows them.
        stops: the stops under way, by container id.
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
    pools: Pools
    locks: Locks = field(default_factory=Locks)
    flights: Flights = field(default_factory=Flights)
    background: Background = field(default_factory=Background)
    waiters: Waiters = field(default_factory=Waiters)
    stops: dict[str, tuple[Stopping, asyncio.Task[None]]] = field(default_factory=dict)
    making: set[str] = field(default_factory=set)
    now_ns: Callable[[], int] = time.time_ns
    send_signal: Callable[[ProcessRef, int], None] = processes.send_signal
