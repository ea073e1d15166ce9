"""What a list is asked for."""

from __future__ import annotations

from shim._proto import api_pb2 as cri
from shim.api.convert import check
from shim.model.container import ContainerState
from shim.model.sandbox import SandboxState
from shim.services.views import ContainerFilter, SandboxFilter


def decode_sandbox_filter(message: cri.PodSandboxFilter) -> SandboxFilter:
    """Return which sandboxes are asked for."""
    state = None
    if message.HasField("state"):
        state = check.member(SandboxState, message.state.state, "filter.state")
    return SandboxFilter(id=message.id, state=state, labels=dict(message.label_selector))


def decode_container_filter(message: cri.ContainerFilter) -> ContainerFilter:
    """Return which containers are asked for."""
    state = None
    if message.HasField("state"):
        state = check.member(ContainerState, message.state.state, "filter.state")
    return ContainerFilter(
        id=message.id,
        state=state,
        sandbox_id=message.pod_sandbox_id,
        labels=dict(message.label_selector),
    )


def decode_stats_filter(message: cri.ContainerStatsFilter) -> ContainerFilter:
    """Return which containers are to be measured: running ones only."""
    return ContainerFilter(
        id=message.id,
        state=ContainerState.RUNNING,
        sandbox_id=message.pod_sandbox_id,
        labels=dict(message.label_selector),
    )


def decode_sandbox_stats_filter(message: cri.PodSandboxStatsFilter) -> SandboxFilter:
    """Return which sandboxes are to be measured."""
    return SandboxFilter(id=message.id, labels=dict(message.label_selector))
