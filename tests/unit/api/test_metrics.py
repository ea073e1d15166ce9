from typing import Any

import pytest

from shim.api import calls
from shim.api.metrics import Metrics
from shim.errors import NotFound
from shim.images.counters import Counters
from shim.services.events import Events
from shim.stages import stage


class Nothing:
    """A node without objects."""

    def __init__(self) -> None:
        self.records = self.images = self.background = self.supervisor = self
        self.connected = True
        self.losses = 2
        self.counters = Counters()
        self.events = Events()

    def sandboxes(self) -> list[Any]:
        return []

    containers = list = sandboxes

    def waiting(self) -> dict[str, Any]:
        return {"teardown of sandbox x": None}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_calls_are_counted_by_method_and_code() -> None:
    node: Any = Nothing()
    metrics = Metrics(node)
    for _ in range(3):
        with calls.enter("Version", object(), (metrics.observer(),)):
            pass
    with pytest.raises(NotFound), calls.enter("StartContainer", object(), (metrics.observer(),)):
        raise NotFound("container", "x")
    assert value(metrics, "cri_shim_calls_total", method="Version", code="OK") == 3
    assert value(metrics, "cri_shim_calls_total", method="StartContainer", code="NOT_FOUND") == 1
    assert value(metrics, "cri_shim_call_seconds_count", method="Version") == 3


def test_stages_are_counted_and_their_names_are_few() -> None:
    node: Any = Nothing()
    metrics = Metrics(node)
    with pytest.raises(OSError, match="no"), calls.enter("PullImage", object(), (metrics.observer(),)):
        for number in range(10):
            with stage(f"layer sha256:{number:064}"):
                pass
        with stage("log directory"):
            raise OSError("no")
    assert value(metrics, "cri_shim_stage_seconds_count", method="PullImage", stage="layer") == 10
    assert value(metrics, "cri_shim_stage_failures_total", method="PullImage", stage="log directory") == 1


def test_stages_beyond_what_is_told_apart_are_counted_together() -> None:
    node: Any = Nothing()
    metrics = Metrics(node)
    for number in range(100):
        with calls.enter("X", object(), (metrics.observer(),)), stage("a" * (number + 1)):
            pass
    assert value(metrics, "cri_shim_stage_seconds_count", method="X", stage="other") == 36


def test_what_there_is_is_looked_at_when_somebody_asks() -> None:
    node: Any = Nothing()
    metrics = Metrics(node)
    assert value(metrics, "cri_shim_retries_waiting") == 1
    assert value(metrics, "cri_shim_supervisor_up") == 1
    assert value(metrics, "cri_shim_event_clients") == 0
    node.events.cut_off = 3
    assert value(metrics, "cri_shim_event_clients_cut_off_total") == 3
    node.connected = False
    assert value(metrics, "cri_shim_supervisor_up") == 0


def test_pulls_are_told_by_host_and_failure() -> None:
    node: Any = Nothing()
    metrics = Metrics(node)
    host = node.counters.host("registry.example:5000")
    host.fetched_bytes, host.requests, host.retries, host.resumed = 1000, 3, 2, 1
    node.counters.unchanged, node.counters.layers_fetched = 5, 6
    host.failures["timeout"] += 2
    node.counters.succeeded = 4
    node.counters.failed["NotFound"] += 1
    assert value(metrics, "cri_shim_pulls_total", result="OK") == 4
    assert value(metrics, "cri_shim_pulls_total", result="NotFound") == 1
    assert value(metrics, "cri_shim_pull_bytes_total", host="registry.example:5000") == 1000
    for name, told in (("retries", 2), ("resumed", 1)):
        assert value(metrics, f"cri_shim_registry_{name}_total", host="registry.example:5000") == told
    assert value(metrics, "cri_shim_pulls_unchanged_total") == 5
    assert value(metrics, "cri_shim_pull_layers_total") == 6
    failed = {"host": "registry.example:5000", "kind": "timeout"}
    assert value(metrics, "cri_shim_registry_failures_total", **failed) == 2
    assert value(metrics, "cri_shim_supervisor_losses_total") == 2
