"""What is bound into a container, and in which order."""

from __future__ import annotations

from typing import Any

from shim.kernel import mount
from shim.model.image import ImageSpec
from shim.model.mount import ImageTree, ImageVolume, Volume
from shim.model.security import ContainerSecurity
from shim.runtime.plan_volumes import Bound, image_steps, open_steps, plan_volumes
from shim.runtime.steps_images import CopyUp, MountImage
from shim.runtime.steps_volumes import OpenVolume, RestrictVolume


def planned(container: Any, resolved: Any = None, **config: Any) -> list[Bound]:
    c = container(resolved=resolved, **config)
    return plan_volumes(c.spec, c.pod_files, c.shm)


def test_outer_volumes_come_first_and_volumes_replace_files_of_the_pod(container: Any) -> None:
    volumes = (
        Volume("/a/b/c", "/3"),
        Volume("/a", "/1"),
        Volume("//etc/hosts/", "/mine"),
        Volume("/a/b", "/2"),
    )
    found = planned(container, volumes=volumes)
    assert [each.volume.host_path for each in found] == [
        *("/1", "/mine", "/2", "/pod/resolv.conf", "/pod/shm", "/3"),
    ]
    assert len({each.name for each in found}) == len(found)


def test_files_of_the_pod_are_readonly_under_a_readonly_root(container: Any) -> None:
    found = planned(container, security=ContainerSecurity(readonly_rootfs=True))
    assert {each.target: each.volume.readonly for each in found} == {
        "/etc/hosts": True,
        "/etc/resolv.conf": True,
        "/dev/shm": False,
    }


def test_an_images_volume_is_filled_unless_something_else_is_there(container: Any) -> None:
    own = (ImageVolume("/data", "/own/0"), ImageVolume("/etc/hosts", "/own/1"), ImageVolume("/v", "/own/2"))
    found = planned(container, {"image_volumes": own}, volumes=(Volume("/v/", "/mine"),))
    assert [(each.target, each.volume.host_path) for each in found if each.filled] == [("/data", "/own/0")]
    opened = {step.name: step.host_path for step in open_steps(found) if isinstance(step, OpenVolume)}
    (filled,) = image_steps(found)
    assert isinstance(filled, CopyUp)
    assert (filled.path, opened[filled.name]) == ("/data", "/own/0")


def test_options_are_set_before_anybody_sees_the_volume(container: Any) -> None:
    tree = ImageTree(("/top", "/layer"), "sha256:1")
    volumes = (
        Volume("/h", "/host", mount_options=("noexec", "ro", "noexec")),
        Volume("/i", image=ImageSpec("i"), readonly=True, mount_options=("nosymfollow",)),
    )
    found = planned(container, {"image_trees": (tree,)}, volumes=volumes)
    restricted = [
        step for step in (*open_steps(found), *image_steps(found)) if isinstance(step, RestrictVolume)
    ]
    assert restricted == [
        RestrictVolume("volume 0", mount.MOUNT_ATTR_NOEXEC | mount.MOUNT_ATTR_RDONLY),
        RestrictVolume("volume 1", mount.MOUNT_ATTR_NOSYMFOLLOW),
    ]


def test_images_come_from_their_layers_and_not_from_a_host_path(container: Any) -> None:
    tree = ImageTree(("/top", "/layer"), "sha256:1")
    volume = Volume("/data", image=ImageSpec("i"), readonly=True, image_sub_path="etc")
    found = planned(container, {"image_trees": (tree,)}, volumes=(volume,))
    (mounted,) = image_steps(found)
    assert mounted == MountImage("volume 0", tree.lowers, "etc")
    assert "" not in [step.host_path for step in open_steps(found) if isinstance(step, OpenVolume)]
