from __future__ import annotations

from collections.abc import Mapping

import pytest

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig, ContainerMetadata
from shim.model.image import ImageSpec
from shim.services.cdi import names


def config(*devices: str, annotations: Mapping[str, str] | None = None) -> ContainerConfig:
    return ContainerConfig(
        ContainerMetadata("c"), ImageSpec("i"), cdi_devices=devices, annotations=annotations or {}
    )


def test_the_field_comes_first_and_each_device_once() -> None:
    annotations = {"cdi.k8s.io/plugin_1": "v.com/c=2,v.com/c=1", "other/cdi.k8s.io": "x"}
    assert names.requested(config("v.com/c=1", annotations=annotations)) == ("v.com/c=1", "v.com/c=2")


@pytest.mark.parametrize("name", ["vendor.com/class=0", "v/c=a", "nvidia.com/gpu=GPU-1:2_x.y", "a_b/c.d=all"])
def test_good_names(name: str) -> None:
    assert names.requested(config(name)) == (name,)


@pytest.mark.parametrize(
    "name", ["", "gpu0", "/c=a", "v/=a", "v/c=", "1v/c=a", "v/c=-a", "v/c=a/b", "v/c=a\n", "v/c/d=a"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"vendor\.com/class=name"):
        names.requested(config(name))
    with pytest.raises(InvalidArgument):
        names.requested(config(annotations={"cdi.k8s.io/p": name}))
