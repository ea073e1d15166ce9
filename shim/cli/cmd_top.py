"""``cri-shim top``: pods and containers by what they use, again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from shim._proto import api_pb2 as cri
from shim.cli import client, options
from shim.cli.output import short_id, size

_COLUMNS: Final = ("POD", "CONTAINER", "ID", "STATE", "CPU %", "MEMORY", "DISK", "ATTEMPT")
_SORTS: Final = ("cpu", "memory", "disk", "name")


@dataclass(frozen=True, slots=True)
class Row:
    """A container at one instant; ``cpu`` is in percent of one processor, None where it is not known yet."""

    pod: str
    name: str
    id: str
    state: str
    attempt: int
    cpu: float | None = None
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(slots=True)
class Meter:
    """Turns what has been used into what is being used."""

    _before: dict[str, tuple[int, int]] = field(default_factory=dict)

    def percent(self, id_: str, usage: Any) -> float | None:
        """Return the CPU use of a container since the last call for it, in percent of one processor."""
        now = usage.timestamp, usage.usage_core_nano_seconds.value
        before, self._before[id_] = self._before.get(id_), now
        if before is not None and now[0] > before[0]:
            return float((now[1] - before[1]) / (now[0] - before[0]) * 100)
        return float(usage.usage_nano_cores.value / 1e7) if usage.HasField("usage_nano_cores") else None

    def keep(self, ids: Container[str]) -> None:
        """Forget all others."""
        for id_ in [id_ for id_ in self._before if id_ not in ids]:
            del self._before[id_]


@click.command("top")
@options.endpoint
@click.option("-n", "--interval", type=click.FloatRange(0.2), default=2.0, help="Seconds between two looks.")
@click.option("--sort", type=click.Choice(_SORTS), default="cpu", help="What comes first.")
@click.option("-1", "--once", is_flag=True, help="Print one table and end, also where this is no terminal.")
def command(socket: str, interval: float, sort: str, once: bool) -> None:
    """Show pods and containers with what they use of processor, memory and disk; Ctrl-C ends."""
    console = Console()
    meter = Meter()
    with client.connect(socket) as daemon:
        if once or not sys.stdout.isatty():
            console.print(table(rows(daemon, meter), sort))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            try:
                while True:
                    live.update(table(rows(daemon, meter), sort), refresh=True)
                    time.sleep(interval)
            except KeyboardInterrupt:
                return


def rows(daemon: client.Client, meter: Meter) -> list[Row]:
    """Ask the daemon, and return a row for each container."""
    pods = {
        each.id: f"{each.metadata.namespace}/{each.metadata.name}"
        for each in daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
    }
    stats = {
        each.attributes.id: each
        for each in daemon.runtime.ListContainerStats(cri.ListContainerStatsRequest()).stats
    }
    containers = daemon.runtime.ListContainers(cri.ListContainersRequest()).containers
    meter.keep({each.id for each in containers})
    return [_row(each, pods, stats.get(each.id), meter) for each in containers]


def _row(container: Any, pods: Mapping[str, str], stats: Any, meter: Meter) -> Row:
    state = cri.ContainerState.Name(container.state).removeprefix("CONTAINER_").lower()
    running = stats is not None and container.state == cri.CONTAINER_RUNNING
    return Row(
        pods.get(container.pod_sandbox_id, "?"),
        container.metadata.name,
        container.id,
        state,
        container.metadata.attempt,
        meter.percent(container.id, stats.cpu) if running else None,
        stats.memory.working_set_bytes.value if running else 0,
        stats.writable_layer.used_bytes.value if stats is not None else 0,
    )


def ordered(found: Sequence[Row], sort: str) -> list[Row]:
    """Return the rows in the order that is asked for."""
    by_name = sorted(found, key=lambda row: (row.pod, row.name))
    if sort == "cpu":
        return sorted(by_name, key=lambda row: -(row.cpu or 0.0))
    if sort == "memory":
        return sorted(by_name, key=lambda row: -row.memory_bytes)
    return sorted(by_name, key=lambda row: -row.disk_bytes) if sort == "disk" else by_name


def table(found: Sequence[Row], sort: str) -> Table:
    """Return what is shown."""
    shown = Table(title=f"{len({row.pod for row in found})} pods, {len(found)} containers", box=None)
    for number, name in enumerate(_COLUMNS):
        shown.add_column(name, justify="right" if number > 3 else "left", no_wrap=True)
    for row in ordered(found, sort):
        shown.add_row(
            row.pod,
            row.name,
            short_id(row.id),
            row.state,
            "" if row.cpu is None else f"{row.cpu:.1f}",
            size(row.memory_bytes) if row.memory_bytes else "",
            size(row.disk_bytes) if row.disk_bytes else "",
            str(row.attempt),
        )
    return shown
