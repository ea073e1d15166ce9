import dataclasses
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim import errors
from shim._proto import api_pb2 as cri
from shim.api.convert.container import (
    decode_container_config,
    encode_container,
    encode_container_config,
    encode_container_status,
)
from shim.model.container import ContainerConfig, ContainerSpec, ContainerState, ContainerStatus
from shim.model.mount import Rootfs
from shim.model.resources import Resources
from shim.model.security import User
from shim.services.views import ContainerView

StrategyOf = Callable[[Any], st.SearchStrategy[Any]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_config_survives_the_wire(data: st.DataObject, strategy_of: StrategyOf) -> None:
    config = data.draw(strategy_of(ContainerConfig))
    image = dataclasses.replace(config.image, image=config.image.image or "a")
    config = dataclasses.replace(config, image=image, stop_signal=config.stop_signal % 66)
    wire = encode_container_config(config).SerializeToString()
    assert decode_container_config(cri.ContainerConfig.FromString(wire)) == config


def test_a_value_that_is_no_utf8_survives() -> None:
    message = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="a"),
        image=cri.ImageSpec(image="i"),
        envs=[cri.KeyValue(key="K", value=b"\xff\xfe")],
    )
    config = decode_container_config(cri.ContainerConfig.FromString(message.SerializeToString()))
    assert config.envs[0].value == b"\xff\xfe"
    assert "xff" not in repr(config)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (cri.ContainerConfig(), "config.metadata is missing"),
        (cri.ContainerConfig(metadata=cri.ContainerMetadata(name="a")), "config.image.image is missing"),
        (
            cri.ContainerConfig(
                metadata=cri.ContainerMetadata(name="a"),
                image=cri.ImageSpec(image="i"),
                mounts=[cri.Mount(propagation=7)],  # type: ignore[arg-type]
            ),
            "mount.propagation is 7, which is none of 0, 1, 2",
        ),
        (
            cri.ContainerConfig(
                metadata=cri.ContainerMetadata(name="a"),
                image=cri.ImageSpec(image="i"),
                stop_signal=99,  # type: ignore[arg-type]
            ),
            "99 is not a signal",
        ),
    ],
)
def test_what_cannot_be_a_container_is_refused(message: cri.ContainerConfig, expected: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=expected):
        decode_container_config(message)


def view(config: cri.ContainerConfig, status: ContainerStatus) -> ContainerView:
    spec = ContainerSpec(
        id="c" * 64,
        sandbox_id="s" * 64,
        config=decode_container_config(config),
        image_id="sha256:1",
        image_ref="docker.io/library/a@sha256:2",
        user=User(1000, 100, (5, 6)),
        log_path="/var/log/pods/p/a/0.log",
        cgroup="/x",
        stop_signal=signal.SIGQUIT,
        rootfs=Rootfs((), "/u", "/w"),
        argv=("sh",),
        cwd="/",
        env=(),
        created_at_ns=5,
    )
    return ContainerView(spec, status)


CONFIG = cri.ContainerConfig(
    metadata=cri.ContainerMetadata(name="web", attempt=2),
    image=cri.ImageSpec(image="a:1", annotations={"x": "y"}, user_specified_image="a", runtime_handler="h"),
    mounts=[
        cri.Mount(
            container_path="/dev/termination-log",
            host_path="/var/lib/kubelet/x",
            uidMappings=[cri.IDMapping(host_id=1, container_id=0, length=10)],
        ),
        cri.Mount(container_path="//odd/../path/", host_path="/h", readonly=True),
    ],
    labels={"l": "v"},
    annotations={"k": "v\n"},
    log_path="a/0.log",
)


def test_status_repeats_what_was_asked_for_to_the_letter() -> None:
    status = encode_container_status(view(CONFIG, ContainerStatus(resources=Resources(cpu_shares=2))))
    assert list(status.mounts) == list(CONFIG.mounts)
    assert status.image == CONFIG.image
    assert (dict(status.labels), dict(status.annotations)) == ({"l": "v"}, {"k": "v\n"})
    assert status.log_path == "/var/log/pods/p/a/0.log"
    assert (status.image_ref, status.image_id) == ("docker.io/library/a@sha256:2", "sha256:1")
    assert status.resources.linux.cpu_shares == 2
    assert status.stop_signal == cri.SIGNAL_SIGQUIT
    assert (status.user.linux.uid, status.user.linux.gid) == (1000, 100)
    assert list(status.user.linux.supplemental_groups) == [5, 6]
    assert status.state == cri.CONTAINER_CREATED


def test_status_of_an_end() -> None:
    ended = ContainerStatus(started_at_ns=6, finished_at_ns=9, exit_code=137, reason="OOMKilled")
    status = encode_container_status(view(CONFIG, ended))
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 137, "OOMKilled")
    assert (status.created_at, status.started_at, status.finished_at) == (5, 6, 9)


def test_a_container_in_a_list() -> None:
    item = encode_container(view(CONFIG, ContainerStatus()).spec, ContainerState.RUNNING)
    assert (item.id, item.pod_sandbox_id) == ("c" * 64, "s" * 64)
    assert item.state == cri.CONTAINER_RUNNING
    assert (item.metadata, item.image) == (CONFIG.metadata, CONFIG.image)
    assert (item.image_ref, item.image_id) == ("docker.io/library/a@sha256:2", "sha256:1")
