"""What may be said of user namespaces."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.model.container import ContainerConfig, ContainerMetadata
from shim.model.image import ImageSpec
from shim.model.mount import Volume
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec
from shim.model.security import (
    ContainerSecurity,
    IdMapping,
    NamespaceMode,
    NamespaceOptions,
    SandboxSecurity,
    User,
    UserNamespace,
)
from shim.services.validate import userns

IDS = (IdMapping(70000, 0, 1000),)
PODS = UserNamespace(NamespaceMode.POD, IDS, IDS)
NODES = UserNamespace(NamespaceMode.NODE)


def sandbox(asked: UserNamespace | None) -> SandboxSpec:
    security = SandboxSecurity(namespaces=NamespaceOptions(userns=asked))
    config = SandboxConfig(SandboxMetadata("p", "u", "n"), security=security)
    return SandboxSpec("s", config, "", 0, "cgroupfs", "/pods", "builtin")


def container(options: NamespaceOptions | None, *volumes: Volume) -> ContainerConfig:
    security = ContainerSecurity(namespaces=options)
    return ContainerConfig(ContainerMetadata("c"), ImageSpec("i"), security=security, volumes=volumes)


def test_what_a_kubelet_sends_is_accepted() -> None:
    for asked in (None, NODES, PODS):
        userns.check_sandbox(NamespaceOptions(userns=asked))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mode": NamespaceMode.CONTAINER}, "CONTAINER"),
        ({"mode": NamespaceMode.TARGET}, "TARGET"),
        ({"mode": NamespaceMode.NODE}, "no mappings"),
        ({"uids": ()}, "uids: 0 mappings"),
        ({"gids": (*IDS, IdMapping(1, 2000, 5))}, "gids: 2 mappings"),
        ({"gids": (IdMapping(70001, 0, 1000),)}, "same mapping"),
        ({"uids": (IdMapping(70000, 0, 0),)}, "0 ids"),
        ({"uids": (IdMapping(70000, 1, 10),)}, "no root"),
        ({"uids": (IdMapping(2**32 - 1000, 0, 1000),)}, "nowhere"),
    ],
)
def test_what_can_be_none_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        userns.check_sandbox(NamespaceOptions(userns=dataclasses.replace(PODS, **change)))


@pytest.mark.parametrize("kind", ["network", "ipc", "pid"])
def test_it_cannot_go_with_a_namespace_of_the_node(kind: str) -> None:
    with pytest.raises(InvalidArgument, match=f"node's {kind}"):
        userns.check_sandbox(NamespaceOptions(userns=PODS, **{kind: NamespaceMode.NODE}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pods", "asked"),
    [
        (None, None),
        (None, NamespaceOptions()),
        (None, NamespaceOptions(userns=NODES)),
        (NODES, NamespaceOptions()),
        (PODS, NamespaceOptions(userns=PODS)),
        (PODS, None),
    ],
)
def test_a_container_is_where_its_pod_is(pods: UserNamespace | None, asked: NamespaceOptions | None) -> None:
    userns.check_container(container(asked), sandbox(pods))


@pytest.mark.parametrize(
    ("pods", "asked"),
    [
        (None, PODS),
        (NODES, PODS),
        (PODS, None),
        (PODS, NODES),
        (PODS, dataclasses.replace(PODS, uids=(IdMapping(70001, 0, 1000),))),
    ],
)
def test_a_container_elsewhere_is_refused(pods: UserNamespace | None, asked: UserNamespace | None) -> None:
    with pytest.raises(InvalidArgument, match="must be those of its sandbox"):
        userns.check_container(container(NamespaceOptions(userns=asked)), sandbox(pods))


def test_an_image_is_shown_with_the_ids_of_its_pod() -> None:
    image = Volume("/i", image=ImageSpec("i"), readonly=True)
    mapped = dataclasses.replace(image, uid_mappings=IDS, gid_mappings=IDS)
    userns.check_container(container(NamespaceOptions(userns=PODS), image, mapped), sandbox(PODS))
    with pytest.raises(InvalidArgument, match="'/i'"):
        userns.check_container(container(None, mapped), sandbox(None))


def test_maps_of_a_volume_come_in_pairs_and_have_ids() -> None:
    userns.check_volume(Volume("/v", "/h", uid_mappings=IDS, gid_mappings=IDS))
    with pytest.raises(InvalidArgument, match="only one"):
        userns.check_volume(Volume("/v", "/h", uid_mappings=IDS))
    with pytest.raises(InvalidArgument, match="'/v'"):
        userns.check_volume(Volume("/v", "/h", uid_mappings=IDS, gid_mappings=(IdMapping(0, 0, 0),)))
    for other, named in (
        (IdMapping(90_000, 0, 1), "same container_id 0"),
        (IdMapping(IDS[0].host_id, 90_000, 1), f"same host_id {IDS[0].host_id}"),
    ):
        with pytest.raises(InvalidArgument, match=named):
            userns.check_volume(Volume("/v", "/h", uid_mappings=(*IDS, other), gid_mappings=IDS))
    many = tuple(IdMapping(n, n, 1) for n in range(341))
    with pytest.raises(InvalidArgument, match="341 mappings"):
        userns.check_volume(Volume("/v", "/h", uid_mappings=many, gid_mappings=many))


def test_users_and_groups_must_be_somebody() -> None:
    userns.check_user(User(70000, 70000, (5,)), None)
    userns.check_user(User(999, 0, (0, 999)), PODS)
    with pytest.raises(InvalidArgument, match="user 1000"):
        userns.check_user(User(1000, 0), PODS)
    with pytest.raises(InvalidArgument, match="group 1000"):
        userns.check_user(User(0, 0, (0, 1000)), PODS)
