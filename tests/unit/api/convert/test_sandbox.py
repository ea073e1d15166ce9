from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api.convert.sandbox import (
    decode_sandbox_config,
    encode_sandbox,
    encode_sandbox_config,
    encode_sandbox_status,
)
from shim.model.network import NetworkResult
from shim.model.sandbox import SandboxConfig, SandboxSpec, SandboxState, SandboxStatus
from shim.services.views import SandboxView

StrategyOf = Callable[[Any], st.SearchStrategy[Any]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_config_survives_the_wire(data: st.DataObject, strategy_of: StrategyOf) -> None:
    config = data.draw(strategy_of(SandboxConfig))
    wire = encode_sandbox_config(config).SerializeToString()
    assert decode_sandbox_config(cri.PodSandboxConfig.FromString(wire)) == config


def test_a_config_without_metadata_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="metadata is missing"):
        decode_sandbox_config(cri.PodSandboxConfig(hostname="h"))


def test_a_namespace_mode_that_nobody_knows_is_refused() -> None:
    config = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="a"))
    config.linux.security_context.namespace_options.ipc = 9  # type: ignore[assignment]
    with pytest.raises(errors.InvalidArgument, match=r"namespace_options\.ipc is 9, which is none of"):
        decode_sandbox_config(config)


def view(options: cri.NamespaceOption, status: SandboxStatus) -> SandboxView:
    message = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name="web", uid="u", namespace="n", attempt=3),
        labels={"l": "v"},
        annotations={"a": "b"},
    )
    message.linux.security_context.namespace_options.CopyFrom(options)
    spec = SandboxSpec(
        id="s" * 64,
        config=decode_sandbox_config(message),
        handler="fast",
        created_at_ns=5,
        cgroup_driver="cgroupfs",
        cgroup_parent="/p",
        network="builtin",
    )
    return SandboxView(spec, status)


@pytest.mark.parametrize(
    "options",
    [
        cri.NamespaceOption(),
        cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER, ipc=cri.NODE),
        cri.NamespaceOption(pid=cri.TARGET, target_id="c1"),
        cri.NamespaceOption(userns_options=cri.UserNamespace(mode=cri.NODE)),
        cri.NamespaceOption(
            userns_options=cri.UserNamespace(
                mode=cri.POD,
                uids=[cri.IDMapping(host_id=65536, length=65536)],
                gids=[cri.IDMapping(length=1)],
            )
        ),
    ],
)
def test_namespace_options_come_back_as_asked(options: cri.NamespaceOption) -> None:
    status = encode_sandbox_status(view(options, SandboxStatus(ready_at_ns=1)))
    assert status.linux.namespaces.options == options
    assert status.linux.namespaces.options.SerializeToString() == options.SerializeToString()


def test_a_ready_pod_tells_its_addresses() -> None:
    network = NetworkResult(ips=("10.0.0.2", "fd00::2"))
    status = encode_sandbox_status(view(cri.NamespaceOption(), SandboxStatus(ready_at_ns=1, network=network)))
    assert status.state == cri.SANDBOX_READY
    assert status.network.ip == "10.0.0.2"
    assert [each.ip for each in status.network.additional_ips] == ["fd00::2"]
    assert (status.runtime_handler, status.created_at) == ("fast", 5)


def test_a_pod_on_the_nodes_network_has_no_address() -> None:
    status = encode_sandbox_status(view(cri.NamespaceOption(network=cri.NODE), SandboxStatus(ready_at_ns=1)))
    assert status.network.ip == ""


def test_a_sandbox_in_a_list() -> None:
    item = encode_sandbox(view(cri.NamespaceOption(), SandboxStatus()).spec, SandboxState.NOTREADY)
    assert item == cri.PodSandbox(
        id="s" * 64,
        metadata=cri.PodSandboxMetadata(name="web", uid="u", namespace="n", attempt=3),
        state=cri.SANDBOX_NOTREADY,
        created_at=5,
        labels={"l": "v"},
        annotations={"a": "b"},
        runtime_handler="fast",
    )
