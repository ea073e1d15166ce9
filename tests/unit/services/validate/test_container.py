import dataclasses
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig, ContainerMetadata, Device, EnvVar
from shim.model.image import ImageSpec
from shim.model.mount import Propagation, Volume
from shim.model.resources import HugepageLimit, Resources
from shim.model.security import ContainerSecurity
from shim.services.validate import container

GOOD = ContainerConfig(ContainerMetadata("app"), ImageSpec("busybox"), log_path="app/0.log", command=("sh",))


def test_what_a_kubelet_sends_is_accepted() -> None:
    container.check(
        dataclasses.replace(
            GOOD,
            envs=(EnvVar("A.b-c", b"\xff=\n"),),
            volumes=(Volume("/etc/hosts", "/var/lib/kubelet/x"), Volume("data", "/srv")),
            devices=(Device("/dev/fuse", "/dev/fuse", "rwm"),),
            resources=Resources(cpu_period_us=100000, cpu_quota_us=-1, memory_swap_limit_bytes=-1),
            security=ContainerSecurity(run_as_user=1000, run_as_group=0, masked_paths=("/proc/kcore",)),
        )
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metadata": ContainerMetadata("")}, "metadata.name"),
        ({"image": ImageSpec("")}, "image"),
        ({"volumes": (Volume("/a", "/b", recursive_read_only=True),)}, "needs readonly"),
        ({"labels": {"a": "x" * 10_000_000}}, "labels"),
        ({"log_path": "../../etc/passwd"}, r"'\.\.'"),
        ({"log_path": "/abs"}, "relative"),
        ({"working_dir": "rel"}, "working_dir"),
        ({"command": ("sh\0",)}, "NUL"),
        ({"args": ("x" * 200_000,)}, "128 KiB"),
        ({"args": ("x" * 100_000,) * 30}, "in all"),
        ({"envs": (EnvVar("", b""),)}, "environment"),
        ({"envs": (EnvVar("A=B", b""),)}, "environment"),
        ({"envs": (EnvVar("A", b"\0"),)}, "NUL"),
        ({"envs": (EnvVar("A", b"x" * 200_000),)}, "128 KiB"),
        ({"envs": tuple(EnvVar(f"A{n}", b"x" * 100_000) for n in range(30))}, "environment takes"),
        ({"volumes": (Volume("", "/srv"),)}, "container_path"),
        ({"volumes": (Volume("/a", "/srv", mount_options=("noexec", "uid=0")),)}, "'uid=0'"),
        ({"volumes": (Volume("/", "/srv"),)}, "whole image"),
        ({"volumes": (Volume("/x/..", "/srv"),)}, "whole image"),
        ({"volumes": (Volume("/data", ""),)}, "neither"),
        ({"volumes": (Volume("/data", "rel"),)}, "absolute"),
        ({"volumes": (Volume("/data", "/srv", image=ImageSpec("i")),)}, "both"),
        ({"volumes": (Volume("/d", image=ImageSpec("i"), image_sub_path="../x", readonly=True),)}, r"'\.\.'"),
        ({"devices": (Device("", "/dev/fuse"),)}, "container_path"),
        ({"devices": (Device("/dev/fuse", "/dev/../etc"),)}, r"'\.\.'"),
        ({"devices": (Device("/dev/fuse", "/dev/fuse", "rx"),)}, "permissions"),
        ({"cdi_devices": ("gpu0",)}, "'gpu0' is not the name of a CDI device"),
        ({"annotations": {"cdi.k8s.io/x": "vendor.com/gpu=0,"}}, "CDI device"),
        ({"resources": Resources(cpu_period_us=-1)}, "cpu_period"),
        ({"resources": Resources(cpu_quota_us=-2)}, "cpu_quota"),
        ({"resources": Resources(cpu_quota_us=999)}, "cpu_quota"),
        ({"resources": Resources(cpu_quota_us=2**62)}, "cpu_quota"),
        ({"resources": Resources(cpu_period_us=999)}, "cpu_period"),
        ({"resources": Resources(cpu_period_us=1_000_001)}, "cpu_period"),
        ({"resources": Resources(memory_swap_limit_bytes=50)}, "memory has no limit"),
        ({"resources": Resources(hugepage_limits=(HugepageLimit("2 MB", 0),))}, "2 MB"),
        ({"resources": Resources(hugepage_limits=(HugepageLimit("2MB", 0),) * 2)}, "twice"),
        ({"resources": Resources(memory_limit_bytes=100, memory_swap_limit_bytes=50)}, "memory_swap"),
        ({"resources": Resources(oom_score_adj=1001)}, "oom_score_adj"),
        ({"resources": Resources(cpuset_cpus="0-")}, "cpuset_cpus"),
        ({"resources": Resources(hugepage_limits=(HugepageLimit("2MB", -1),))}, "hugepage"),
        ({"resources": Resources(unified={"../../x": "1"})}, "unified"),
        ({"security": ContainerSecurity(run_as_user=-1)}, "user or group id"),
        ({"security": ContainerSecurity(run_as_user=2**32)}, "user or group id"),
        ({"security": ContainerSecurity(run_as_group=1)}, "run_as_group"),
        ({"security": ContainerSecurity(masked_paths=("proc",))}, "masked_paths .proc. is not an absolute"),
    ],
)
def test_what_can_never_work_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        container.check(dataclasses.replace(GOOD, **change))


def test_a_secret_is_not_in_the_error() -> None:
    with pytest.raises(InvalidArgument) as caught:
        container.check(dataclasses.replace(GOOD, envs=(EnvVar("TOKEN", b"hunter2\0"),)))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "volume",
    [
        Volume("/data", image=ImageSpec("")),
        Volume("/data", image=ImageSpec("i")),
        Volume("/data", image=ImageSpec("i"), readonly=True, propagation=Propagation.BIDIRECTIONAL),
        Volume("/data", image=ImageSpec("i"), readonly=True, image_sub_path="a/../../b"),
        Volume("/data", image=ImageSpec("i"), readonly=True, image_sub_path="a\0b"),
    ],
)
def test_a_kubelet_knows_what_is_wrong_with_an_image_volume(volume: Volume) -> None:
    with pytest.raises(InvalidArgument, match=r"^ImageVolumeMountFailed: the mount on '/data'"):
        container.check(dataclasses.replace(GOOD, volumes=(volume,)))


def test_an_image_volume_is_accepted() -> None:
    volume = Volume("/data", image=ImageSpec("i"), readonly=True, image_sub_path="etc/x")
    container.check(dataclasses.replace(GOOD, volumes=(volume,)))
    with pytest.raises(InvalidArgument, match="no image"):
        container.check(dataclasses.replace(GOOD, volumes=(Volume("/d", "/d", image_sub_path="x"),)))
