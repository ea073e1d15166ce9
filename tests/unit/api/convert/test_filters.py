import pytest

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api.convert import filters
from shim.model.container import ContainerState
from shim.model.sandbox import SandboxState
from shim.services.views import ContainerFilter, SandboxFilter


def test_a_filter_that_is_not_given_selects_all() -> None:
    assert filters.decode_container_filter(cri.ListContainersRequest().filter) == ContainerFilter()
    assert filters.decode_sandbox_filter(cri.ListPodSandboxRequest().filter) == SandboxFilter()


def test_state_zero_is_a_state_not_an_absence() -> None:
    message = cri.ContainerFilter(state=cri.ContainerStateValue(state=cri.CONTAINER_CREATED))
    assert filters.decode_container_filter(message).state is ContainerState.CREATED
    sandbox = cri.PodSandboxFilter(state=cri.PodSandboxStateValue())
    assert filters.decode_sandbox_filter(sandbox).state is SandboxState.READY


def test_everything_is_carried_over() -> None:
    message = cri.ContainerFilter(id="c", pod_sandbox_id="s", label_selector={"a": "b"})
    assert filters.decode_container_filter(message) == ContainerFilter("c", None, "s", {"a": "b"})


def test_stats_are_of_what_runs() -> None:
    message = cri.ContainerStatsFilter(id="c", pod_sandbox_id="s", label_selector={"a": "b"})
    wanted = ContainerFilter("c", ContainerState.RUNNING, "s", {"a": "b"})
    assert filters.decode_stats_filter(message) == wanted


def test_a_state_that_nobody_knows_is_refused() -> None:
    message = cri.ContainerFilter(state=cri.ContainerStateValue(state=7))  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgument, match=r"filter\.state is 7"):
        filters.decode_container_filter(message)
