"""The daemon's own metrics, in the words of prometheus-client. Loaded only where they are asked for.

Every label has few values: methods and codes are the CRI's, stages are names in this program, and what is
neither is ``other``.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from shim.api.calls import Call, Observer
from shim.api.status import code_name
from shim.images.counters import Counters
from shim.services.node import Node

_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
)  # fmt: skip
_MOST_STAGES: Final = 64
_OTHER: Final = "other"


class Metrics:
    """What is counted.

    Attributes:
        registry: all of it.
    """

    def __init__(self, node: Node) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._calls = Counter(
            "cri_shim_calls", "Calls that have ended.", ("method", "code"), registry=self.registry
        )
        self._seconds = Histogram(
            "cri_shim_call_seconds",
            "How long calls took.",
            ("method",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._stages = Histogram(
            "cri_shim_stage_seconds",
            "How long stages of calls took.",
            ("method", "stage"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._failures = Counter(
            "cri_shim_stage_failures",
            "Stages that an error left.",
            ("method", "stage"),
            registry=self.registry,
        )
        self._known: set[str] = set()
        self.registry.register(_State(node))

    def observer(self) -> Observer:
        """Return what counts calls."""

        def begin(_call: Call) -> Callable[[Call], None]:
            return self._end

        return begin

    def _end(self, call: Call) -> None:
        method = call.method
        self._calls.labels(method, code_name(call.error)).inc()
        self._seconds.labels(method).observe(call.took_ns / 1e9)
        for stage in call.operation.stages:
            name = self._stage(stage.name)
            if stage.took_ns >= 0:
                self._stages.labels(method, name).observe(stage.took_ns / 1e9)
            if stage.failed:
                self._failures.labels(method, name).inc()

    def _stage(self, name: str) -> str:
        """Return the words of a stage that are the same for every object."""
        words = " ".join(word for word in name.split() if word.isalpha() or word.replace("-", "").isalpha())
        if words not in self._known:
            if len(self._known) >= _MOST_STAGES:
                return _OTHER
            self._known.add(words)
        return words or _OTHER


class _State(Collector):
    """What there is, looked at when somebody asks. Runs in: any thread, so it only reads."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node = self._node
        yield _gauge(
            "cri_shim_sandboxes",
            "Sandboxes by state.",
            Tally(view.state.name for view in list(node.records.sandboxes())),
        )
        yield _gauge(
            "cri_shim_containers",
            "Containers by state.",
            Tally(view.state.name for view in list(node.records.containers())),
        )
        yield GaugeMetricFamily("cri_shim_images", "Images.", value=len(node.images.list()))
        yield GaugeMetricFamily(
            "cri_shim_retries_waiting",
            "What has failed and is tried again in the background.",
            value=len(node.background.waiting()),
        )
        yield GaugeMetricFamily(
            "cri_shim_supervisor_up", "Whether the supervisor answers.", value=int(node.supervisor.connected)
        )
        yield CounterMetricFamily(
            "cri_shim_supervisor_losses",
            "How often it was lost and another found.",
            value=node.supervisor.losses,
        )
        events = node.records.events
        yield GaugeMetricFamily("cri_shim_event_clients", "Who listens to events.", value=events.listeners)
        yield CounterMetricFamily(
            "cri_shim_event_clients_cut_off", "Who was too far behind and was ended.", value=events.cut_off
        )
        yield from _pulls(node.images.counters)


def _pulls(counters: Counters) -> Iterator[Metric]:
    """What is known of pulls and of the hosts that they ask; the store bounds how many hosts there are."""
    pulls = CounterMetricFamily("cri_shim_pulls", "Pulls that have ended.", labels=("result",))
    pulls.add_metric(("OK",), counters.succeeded)
    for kind, count in sorted(counters.failed.items()):
        pulls.add_metric((kind,), count)
    yield pulls
    for name, text, value in (
        ("pulls_joined", "Callers who found their pull under way.", counters.joined),
        ("pulls_unchanged", "Pulls whose image was here already.", counters.unchanged),
        ("pull_layers", "Layers that were fetched.", counters.layers_fetched),
        ("pull_seconds", "What pulls took that ended well.", counters.seconds),
    ):
        yield CounterMetricFamily(f"cri_shim_{name}", text, value=value)
    yield from _hosts(counters)


def _hosts(counters: Counters) -> Iterator[Metric]:
    fetched = CounterMetricFamily("cri_shim_pull_bytes", "Bytes from registries.", labels=("host",))
    waited = CounterMetricFamily(
        "cri_shim_registry_wait_seconds", "From requests to the heads of answers.", labels=("host",)
    )
    asked = CounterMetricFamily("cri_shim_registry_requests", "Requests to registries.", labels=("host",))
    again = CounterMetricFamily(
        "cri_shim_registry_retries", "Requests sent again after a failure.", labels=("host",)
    )
    resumed = CounterMetricFamily(
        "cri_shim_registry_resumed", "Retries that asked for the rest of a blob.", labels=("host",)
    )
    failed = CounterMetricFamily(
        "cri_shim_registry_failures", "Requests that failed.", labels=("host", "kind")
    )
    for name, host in list(counters.hosts.items()):
        fetched.add_metric((name,), host.fetched_bytes)
        waited.add_metric((name,), host.wait_seconds)
        asked.add_metric((name,), host.requests)
        again.add_metric((name,), host.retries)
        resumed.add_metric((name,), host.resumed)
        for kind, count in sorted(host.failures.items()):
            failed.add_metric((name, kind), count)
    yield from (fetched, waited, asked, again, resumed, failed)


def _gauge(name: str, text: str, values: Tally[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("state",))
    for state, count in sorted(values.items()):
        family.add_metric((state,), count)
    return family
