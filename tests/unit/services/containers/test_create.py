import asyncio
import dataclasses
import os
from typing import Any

import pytest

from shim.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from shim.model.container import ContainerConfig, ContainerMetadata, ContainerState
from shim.model.image import ImageSpec
from shim.model.mount import Volume
from shim.model.sandbox import SandboxMetadata
from shim.model.security import ContainerSecurity, NamespaceMode, NamespaceOptions, User
from shim.services.cdi.library import Library
from shim.services.containers.create import create_container, log_path
from shim.services.containers.start import start_container
from shim.services.containers.status import container_status
from shim.services.sandboxes.run import run_pod_sandbox
from shim.services.sandboxes.stop import stop_pod_sandbox


async def test_all_is_resolved_and_written_down_and_nothing_runs(bench: Any) -> None:
    sandbox = await run_pod_sandbox(
        bench.node, bench.sandbox(hostname="web", log_directory=str(bench.tmp_path))
    )
    id_ = await create_container(bench.node, sandbox[:10], bench.container(log_path="app/0.log"))
    view = container_status(bench.node, id_)
    spec = view.spec
    assert (view.state, id_ in bench.world.running) == (ContainerState.CREATED, False)
    assert (spec.user, spec.argv, spec.cwd) == (User(1000, 1000, (1000,)), ("serve",), "/")
    assert {b"HOSTNAME=web", b"HOME=/home/app"} < set(spec.env)
    assert spec.log_path == f"{bench.tmp_path}/app/0.log"
    assert spec.cgroup == f"/cri-shim/{id_}"
    assert (spec.image_ref, spec.stop_signal) == (bench.images.images[0].repo_digests[0], 15)
    assert spec.rootfs.upper.endswith(f"{id_}/fs")


async def test_what_devices_edit_is_written_down(bench: Any) -> None:
    (bench.tmp_path / "cdi").mkdir()
    (bench.tmp_path / "cdi" / "v.yaml").write_text(
        "cdiVersion: 0.7.0\nkind: v.com/c\ndevices:\n- name: a\n  containerEdits:\n"
        "    {env: [HOSTNAME=device], additionalGids: [44, 1000], deviceNodes: [{path: /dev/null}]}\n"
    )
    bench.node.cdi = Library((str(bench.tmp_path / "cdi"),))
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    id_ = await create_container(bench.node, sandbox, bench.container(cdi_devices=("v.com/c=a",)))
    node = await bench.restart()
    spec = container_status(node, id_).spec
    assert spec.user == User(1000, 1000, (1000, 44))
    assert b"HOSTNAME=device" in spec.env
    assert [(each.path, each.major, each.minor) for each in spec.edits.devices] == [("/dev/null", 1, 3)]


async def test_images_as_volumes_are_found_and_told(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    image = bench.images.images[0]
    volumes = (
        Volume("/a", image=ImageSpec(image.id), readonly=True, image_sub_path="etc"),
        Volume("/b", "/srv"),
        Volume("/c", image=ImageSpec(image.repo_tags[0]), readonly=True),
    )
    id_ = await create_container(bench.node, sandbox, bench.container(volumes=volumes))
    trees = container_status(bench.node, id_).spec.image_trees
    assert [tree.image_ref for tree in trees] == [image.id] * 2
    assert [tree.lowers for tree in trees] == [
        (f"/s/{id_}/images/{number}", *image.chain_ids) for number in range(2)
    ]


@pytest.mark.parametrize(
    ("image", "path", "error"),
    [("other", "", FailedPrecondition), (None, "none", InvalidArgument), (None, "", None)],
)
async def test_an_image_volume_that_is_not_there_leaves_nothing(
    bench: Any, image: str | None, path: str, error: type[Exception] | None
) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    name = image or bench.images.images[0].id
    volume = Volume("/a", image=ImageSpec(name), readonly=True, image_sub_path=path)
    if error is None:
        await create_container(bench.node, sandbox, bench.container(volumes=(volume,)))
        return
    with pytest.raises(error, match=r"^ImageVolumeMountFailed: the mount on '/a'"):
        await create_container(bench.node, sandbox, bench.container(volumes=(volume,)))
    assert bench.images.snapshots.ids == set()


async def test_the_stored_sandbox_wins_over_what_the_caller_sends(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox(log_directory=str(bench.tmp_path)))
    other = bench.sandbox(log_directory="/etc", cgroup_parent="/elsewhere")
    id_ = await create_container(bench.node, sandbox, bench.container(log_path="a.log"), other)
    assert container_status(bench.node, id_).spec.log_path == f"{bench.tmp_path}/a.log"


async def test_a_retry_collects_and_a_delivered_name_is_taken(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    calls = [create_container(bench.node, sandbox, bench.container()) for _ in range(3)]
    ids = set(await asyncio.gather(*calls))
    assert len(ids) == 1
    with pytest.raises(AlreadyExists, match=f"id {ids.pop()}, CREATED"):
        await create_container(bench.node, sandbox, bench.container())
    assert len(bench.images.snapshots.ids) == 1


async def test_an_undelivered_container_is_collected_by_the_next_daemon(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    caller = asyncio.create_task(create_container(bench.node, sandbox, bench.container()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await bench.until(lambda: list(bench.node.records.containers()))
    node = await bench.restart()
    (view,) = node.records.containers()
    assert await create_container(node, sandbox, bench.container()) == view.spec.id


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"image": ImageSpec("docker.io/library/missing:1")}, NotFound),
        ({"log_path": "../x"}, InvalidArgument),
        ({"security": ContainerSecurity(run_as_username="nobody-here")}, InvalidArgument),
        ({"stop_signal": 99}, InvalidArgument),
        ({"security": ContainerSecurity(privileged=True)}, InvalidArgument),
        ({"cdi_devices": ("v.com/c=a",)}, InvalidArgument),
    ],
)
async def test_a_refused_container_leaves_nothing(bench: Any, changes: dict[str, Any], error: type) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    config = bench.container()
    for name, value in changes.items():
        config = dataclasses.replace(config, **{name: value})
    with pytest.raises(error):
        await create_container(bench.node, sandbox, config)
    assert (bench.images.snapshots.ids, os.listdir(bench.node.layout.containers)) == (set(), [])


async def test_the_sandbox_must_be_there_and_ready(bench: Any) -> None:
    with pytest.raises(NotFound, match="sandbox 'nope' not found"):
        await create_container(bench.node, "nope", bench.container())
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    await stop_pod_sandbox(bench.node, sandbox)
    with pytest.raises(FailedPrecondition, match="NOTREADY"):
        await create_container(bench.node, sandbox, bench.container())
    assert bench.images.snapshots.ids == set()


def test_a_log_needs_both_of_its_parts() -> None:
    assert log_path("/var/log/pods/x", "a/0.log") == "/var/log/pods/x/a/0.log"
    assert log_path("/var/log/pods/x", "") == ""
    assert log_path("", "a.log") == ""


async def test_a_target_is_of_the_same_pod_and_runs(bench: Any) -> None:
    sandbox = await run_pod_sandbox(bench.node, bench.sandbox())
    target = await create_container(bench.node, sandbox, bench.container())

    def aimed(name: str) -> ContainerConfig:
        options = NamespaceOptions(pid=NamespaceMode.TARGET, target_id=target)
        asked: ContainerConfig = dataclasses.replace(bench.container(), metadata=ContainerMetadata(name))
        return dataclasses.replace(asked, security=ContainerSecurity(namespaces=options))

    with pytest.raises(FailedPrecondition, match="is CREATED"):
        await create_container(bench.node, sandbox, aimed("early"))
    await start_container(bench.node, target)
    await create_container(bench.node, sandbox, aimed("seen"))
    other = await run_pod_sandbox(
        bench.node, dataclasses.replace(bench.sandbox(), metadata=SandboxMetadata("other", "u2", "n"))
    )
    with pytest.raises(InvalidArgument, match="of another pod"):
        await create_container(bench.node, other, aimed("elsewhere"))
