"""Images come from a real registry, once, are found by each of their names, and go as a whole."""

from __future__ import annotations

import asyncio
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, Fake, running

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, RegistryUnavailable
from shim.images.store import ImageStore
from shim.model import ids

pytestmark = [pytest.mark.root, pytest.mark.registry]


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


async def test_pull_by_tag_and_by_digest_give_one_image(registry: Any, store: ImageStore, tools: Any) -> None:
    built = tools.image(tools.tar(("etc/passwd", b"root:x:0:0::/:/bin/sh\n")))
    name = registry.push("pull/both", "v1", built)
    image = await store.pull(name, None)
    by_digest = f"{registry.host}/pull/both@{built.digest}"
    assert (image.id, image.repo_tags, image.repo_digests) == (built.id, (name,), (by_digest,))
    assert image.size_bytes > 0
    assert await store.pull(by_digest, None) == image
    assert await store.pull(f"{registry.host}/pull/both:v1@{built.digest}", None) == image
    assert registry.fetched("pull/both").count(built.layers[0]) == 1
    for text in (name, by_digest, built.id, built.id[7:], built.id[7:20]):
        assert store.resolve(text).id == built.id
    assert store.read_file(image, "/etc/passwd") == b"root:x:0:0::/:/bin/sh\n"


async def test_pull_by_digest_alone_gives_no_tag(registry: Any, store: ImageStore, tools: Any) -> None:
    built = tools.image(tools.tar(("f", b"1")))
    registry.push("pull/digest", "v1", built)
    image = await store.pull(f"{registry.host}/pull/digest@{built.digest}", None)
    assert image.repo_tags == ()
    assert image.repo_digests == (f"{registry.host}/pull/digest@{built.digest}",)


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("packing", ["tar", "tar+gzip", "tar+zstd"])
async def test_every_format_gives_the_same_files(
    registry: Any, store: ImageStore, tools: Any, packing: str, docker: bool
) -> None:
    if docker and packing == "tar+zstd":
        packing = "tar"
    layer = tools.tar(("data", os.urandom(3 << 20)))
    built = tools.image(layer, packing=packing, docker=docker)
    image = await store.pull(
        registry.push("pull/formats", f"{docker}-{packing[3:].strip('+')}x", built), None
    )
    assert image.id == built.id
    data = store.read_file(image, "/data")
    assert data is not None
    assert data == layer[512 : 512 + len(data)]


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
async def test_an_index_gives_the_image_for_this_machine(
    registry: Any, store: ImageStore, tools: Any, docker: bool
) -> None:
    builds = {
        name: tools.image(tools.tar(("arch", name.encode())), platform=("linux", name), docker=docker)
        for name in ("s390x", "amd64", "arm64")
    }
    index = tools.index(*((built, name) for name, built in builds.items()), docker=docker)
    tag = registry.push("pull/index", "docker" if docker else "oci", index)
    image = await store.pull(tag, None)
    here = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    assert image.id == builds[here].id
    assert image.repo_digests == (f"{registry.host}/pull/index@{index.digest}",)
    others = {name for other, built in builds.items() if other != here for name in built.layers}
    assert not others & set(registry.fetched("pull/index"))


async def test_an_index_without_this_machine_is_refused(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    index = tools.index((tools.image(tools.tar(("f", b"1")), platform=("linux", "s390x")), "s390x"))
    with pytest.raises(FailedPrecondition, match="no match for platform"):
        await store.pull(registry.push("pull/foreign", "v1", index), None)
    assert tools.leftovers(tmp_path / "images") == []


async def test_two_pulls_at_once_are_one(registry: Any, store: ImageStore, tools: Any) -> None:
    built = tools.image(tools.tar(("f", os.urandom(1 << 20))))
    name = registry.push("pull/once", "v1", built)
    heard: list[tuple[int, str]] = []
    pulls = [
        store.pull(name, None, progress=lambda item, phase, done, total, n=n: heard.append((n, phase)))
        for n in range(5)
    ]
    images = await asyncio.gather(*pulls)
    assert {image.id for image in images} == {built.id}
    assert sorted(registry.fetched("pull/once")) == sorted([built.id, *built.layers])
    assert {n for n, phase in heard if phase == "done"} == set(range(5))


async def test_two_images_pulled_at_once_fetch_a_shared_layer_once(
    registry: Any, store: ImageStore, tools: Any
) -> None:
    base = tools.tar(("base", os.urandom(2 << 20)))
    builds = [tools.image(base, tools.tar(("top", bytes([number])))) for number in range(3)]
    names = [registry.push("pull/atonce", f"t{number}", built) for number, built in enumerate(builds)]
    images = await asyncio.gather(*(store.pull(name, None) for name in names))
    assert [image.id for image in images] == [built.id for built in builds]
    assert registry.fetched("pull/atonce").count(builds[0].layers[0]) == 1


async def test_a_pull_goes_on_for_the_others_when_one_caller_leaves(
    registry: Any, store: ImageStore, tools: Any
) -> None:
    built = tools.image(tools.tar(("f", os.urandom(4 << 20))))
    name = registry.push("pull/leaver", "v1", built)
    first, second = (asyncio.ensure_future(store.pull(name, None)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).id == built.id
    assert first.cancelled() or first.done()


async def test_a_cancelled_pull_leaves_nothing(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    name = registry.push("pull/cancelled", "v1", tools.image(tools.tar(("f", os.urandom(16 << 20)))))
    begun = asyncio.Event()
    pull = asyncio.ensure_future(store.pull(name, None, progress=lambda *_: begun.set()))
    await begun.wait()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert tools.leftovers(tmp_path / "images") == []


async def test_layers_are_shared_and_unpacked_once(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    base = tools.tar(("base", os.urandom(100_000)))
    images = []
    for number in range(3):
        built = tools.image(base, tools.tar((f"top{number}", b"x")), config={"User": str(number)})
        images.append(await store.pull(registry.push(f"pull/shared{number}", "v1", built), None))
    assert len({image.chain_ids[0] for image in images}) == 1
    assert len(os.listdir(tmp_path / "images/layers")) == 4
    fetched = [name for number in range(3) for name in registry.fetched(f"pull/shared{number}")]
    assert fetched.count(images and built.layers[0]) == 1
    await store.remove(images[0].id)
    assert len(os.listdir(tmp_path / "images/layers")) == 3
    assert store.read_file(images[1], "/base") is not None
    await store.remove(images[1].id)
    await store.remove(images[2].id)
    assert tools.leftovers(tmp_path / "images") == []


async def test_the_same_layer_on_another_one_is_another_layer(
    registry: Any, store: ImageStore, tools: Any
) -> None:
    a, b = tools.tar(("d", None), ("d/a", b"a")), tools.tar(("d/b", b"b"))
    first = await store.pull(registry.push("pull/chain", "ab", tools.image(a, b)), None)
    second = await store.pull(registry.push("pull/chain", "b", tools.image(b)), None)
    assert first.diff_ids[1] == second.diff_ids[0]
    assert first.chain_ids[1] != second.chain_ids[0]
    assert store.read_file(second, "/d/a") is None


async def test_a_moved_tag_belongs_to_the_new_image(registry: Any, store: ImageStore, tools: Any) -> None:
    old, new = (tools.image(tools.tar(("version", text))) for text in (b"1", b"2"))
    name = registry.push("pull/moved", "latest", old)
    await store.pull(name, None)
    assert registry.push("pull/moved", "latest", new) == name
    assert (await store.pull(name.removesuffix(":latest"), None)).id == new.id
    assert store.resolve(name).id == new.id
    assert store.resolve(old.id).repo_tags == ()
    assert {image.id for image in store.list()} == {old.id, new.id}


async def test_one_image_with_several_tags_goes_as_a_whole(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    built = tools.image(tools.tar(("f", b"1")))
    names = [registry.push("pull/tags", f"t{number}", built) for number in range(3)]
    for name in names:
        image = await store.pull(name, None)
    assert image.repo_tags == tuple(names)
    assert len(store.list()) == 1
    await store.remove(names[1])
    assert store.list() == []
    for text in (names[0], built.id, f"{registry.host}/pull/tags@{built.digest}", "never/was", "sha256:123"):
        await store.remove(text)
    assert tools.leftovers(tmp_path / "images") == []


async def test_names_of_several_registries_are_of_one_image(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    built = tools.image(tools.tar(("f", b"1")))
    with tools.serve(tmp_path / "other", tmp_path / "storage") as other:
        names = [server.push("pull/several", "v1", built) for server in (registry, other)]
        images = [await store.pull(name, None) for name in names]
    assert images[0].id == images[1].id
    digests = {f"{server.host}/pull/several@{built.digest}" for server in (registry, other)}
    assert (set(images[1].repo_tags), set(images[1].repo_digests)) == (set(names), digests)
    assert len(store.list()) == 1
    for text in (*names, *digests):
        assert store.resolve(text).id == built.id
    await store.remove(digests.pop())
    assert store.list() == []
    assert tools.leftovers(tmp_path / "images") == []


async def test_a_container_keeps_its_layers(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    image = await store.pull(registry.push("pull/used", "v1", tools.image(tools.tar(("f", b"1")))), None)
    container = ids.new_id()
    rootfs = store.snapshots.prepare(container, image)
    before = store.snapshots.usage(container)
    assert before is not None
    assert (before.used_bytes, before.inodes_used) == (0, 0)
    write(f"{rootfs.upper}/written", bytes(10_000))
    assert store.snapshots.measure(container).used_bytes >= 10_000
    usage = store.snapshots.usage(container)
    assert usage is not None
    assert usage.mountpoint == rootfs.upper
    await store.remove(image.id)
    assert read(f"{rootfs.lowers[0]}/f") == b"1"
    assert store.snapshots.rootfs(container) == rootfs
    store.snapshots.remove(container)
    store.snapshots.remove(container)
    with pytest.raises(NotFound):
        store.snapshots.prepare(ids.new_id(), image)
    assert tools.leftovers(tmp_path / "images") == []


async def test_an_image_without_layers_can_be_used(
    registry: Any, store: ImageStore, tools: Any, tmp_path: Path
) -> None:
    image = await store.pull(registry.push("pull/empty", "v1", tools.image()), None)
    rootfs = store.snapshots.prepare(ids.new_id(), image)
    with tools.overlay(rootfs.lowers, tmp_path) as root:
        assert os.listdir(root) == []


async def test_what_the_registry_does_not_have_is_not_found(
    registry: Any, store: ImageStore, tools: Any
) -> None:
    registry.push("pull/some", "v1", tools.image(tools.tar(("f", b"1"))))
    digest = tools.digest(b"nothing")
    for text in ("pull/some:v2", "pull/none:v1", f"pull/some@{digest}"):
        with pytest.raises(NotFound, match="not found"):
            await store.pull(f"{registry.host}/{text}", None)
    for text in ("library/UPPER", "a:b:c", "", "@", f"{registry.host}/x@sha256:12"):
        with pytest.raises(InvalidArgument):
            await store.pull(text, None)


async def test_a_registry_that_is_not_there_is_unavailable(store: ImageStore, tools: Any) -> None:
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1"):
        await store.pull(f"127.0.0.1:{tools.free_port()}/some/image:v1", None)


async def test_a_restart_finds_everything_again(
    registry: Any, open_store: Any, tools: Any, tmp_path: Path
) -> None:
    name = registry.push("pull/restart", "v1", tools.image(tools.tar(("f", b"1"))))
    container = ids.new_id()
    async with open_store(tmp_path / "images") as store:
        image = await store.pull(name, None)
        rootfs = store.snapshots.prepare(container, image)
        usage = await store.fs_usage()
    async with open_store(tmp_path / "images") as store:
        assert store.list() == [image]
        assert store.snapshots.rootfs(container) == rootfs
        assert store.read_file(image, "/f") == b"1"
        assert (await store.fs_usage()).used_bytes == usage.used_bytes > 0
        assert os.stat(usage.mountpoint)


async def test_who_shares_a_layer_gets_those_below_it_when_its_first_caller_leaves(
    open_store: Any, tools: Any, tmp_path: Path
) -> None:
    """The upper layer waits for the lower one, whose caller leaves: another one needs both still."""
    release, site = threading.Event(), Fake()
    lower, upper = tools.tar(("d", {"type": tarfile.DIRTYPE, "mode": 0o700})), tools.tar(("d/f", b"1"))
    images = [tools.image(lower, upper, config={"User": user}) for user in ("1", "2")]
    for number, built in enumerate(images):
        site.offer(built, tag=f"v{number}")
    slow = images[0].layers[0]
    site.answers[f"/blobs/{slow}"] = Answer(body=images[0].blobs[slow], hang=10, release=release)
    async with open_store(tmp_path / "images", stall_timeout_s=60) as store:
        with running(site):
            first = asyncio.ensure_future(store.pull(f"{site.host}/a/b:v0", None))
            while not list((tmp_path / "images/ingest").glob("*/layer.json")):
                assert not first.done(), first
                await asyncio.sleep(0.01)
            second = asyncio.ensure_future(store.pull(f"{site.host}/a/b:v1", None))
            while callers(store) != [2, 2]:
                assert not first.done(), first
                await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            site.answers[f"/blobs/{slow}"] = Answer(body=images[0].blobs[slow])
            release.set()
            image = await second
        assert image.id == images[1].id
        assert store.read_file(image, "/d/f") == b"1"
        assert [found.problems async for found in store.verify([])] == [(), ()]


def callers(store: ImageStore) -> list[int]:
    """Return how many wait for each layer that is being brought in."""
    return [flight.callers for flight in store._ingest._flights._flights.values()]
