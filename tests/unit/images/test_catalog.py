"""The record of version 1 as it lies on disks: it must be read for ever."""

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from shim.errors import FailedPrecondition, InvalidArgument, NotFound
from shim.images import catalog
from shim.images.blobs import BlobStore
from shim.images.catalog import Catalog, LayerRecord, Record

GOLDEN = (
    b'{"id":"sha256:ID","manifest":"sha256:MANIFEST","layers":[{"digest":"sha256:LAYER","size":5,'
    b'"media_type":"application/vnd.oci.image.layer.v1.tar+gzip"}],"size_bytes":1234,'
    b'"tags":{"docker.io/library/app:v1":1700000000000000000},"digests":["docker.io/library/app@sha256:MANIFEST"],'
    b'"documents":["sha256:MANIFEST","sha256:ID"],"pinned":true,"version":1}'
)


def config(number: int) -> bytes:
    return json.dumps({"config": {"User": str(number)}, "rootfs": {"diff_ids": []}}).encode()


def image_id(number: int) -> str:
    return f"sha256:{hashlib.sha256(config(number)).hexdigest()}"


@pytest.fixture
def opened(tmp_path: Path) -> Catalog:
    blobs = BlobStore(str(tmp_path))
    blobs.start()
    for number in range(3):
        blobs.put(image_id(number), config(number))
    found = Catalog(str(tmp_path), blobs, ("pinned.example/*",))
    found.start(str(tmp_path / "quarantine"))
    return found


def record(number: int, *digests: str) -> Record:
    return Record(image_id(number), "", (), 0, digests=digests, documents=(image_id(number),))


def test_the_record_of_version_1_is_read() -> None:
    found = catalog.decode(GOLDEN)
    assert found.id == "sha256:ID"
    assert found.tags == {"docker.io/library/app:v1": 1_700_000_000_000_000_000}
    assert found.layers == (LayerRecord("sha256:LAYER", 5, "application/vnd.oci.image.layer.v1.tar+gzip"),)
    assert found.pinned
    assert msgspec.json.encode(found) == GOLDEN


def test_a_record_of_another_version_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="format 2"):
        catalog.decode(GOLDEN.replace(b'"version":1', b'"version":2'))


def test_a_name_belongs_to_the_image_that_got_it_last(opened: Catalog) -> None:
    opened.put(record(0), "docker.io/library/a:1")
    opened.put(record(0), "docker.io/library/b:1")
    opened.put(record(1), "docker.io/library/a:1")
    assert opened.resolve("a:1").id == image_id(1)
    assert opened.resolve("b:1").id == image_id(0)
    assert opened.resolve(image_id(0)).repo_tags == ("docker.io/library/b:1",)


def test_images_are_found_by_every_name_and_prefix(opened: Catalog) -> None:
    digest = "sha256:" + "d" * 64
    opened.put(record(0, f"docker.io/library/a@{digest}"), "docker.io/library/a:latest")
    hexes = image_id(0)[7:]
    for text in (
        "a",
        "a:latest",
        "docker.io/a",
        f"a@{digest}",
        f"a:other@{digest}",
        hexes,
        hexes[:12],
        f"sha256:{hexes[:5]}",
    ):
        assert opened.resolve(text).id == image_id(0), text
    for text in ("b", "a:v2", "", hexes[:2], "sha256:", "0" * 64, "no such thing!"):
        with pytest.raises(NotFound):
            opened.resolve(text)


def test_a_prefix_of_several_ids_is_refused(opened: Catalog) -> None:
    opened._images = {f"sha256:abc{number}": opened.put(record(number), "") for number in range(2)}
    with pytest.raises(InvalidArgument, match="fits 2 images"):
        opened.resolve("abc")


def test_what_is_pinned_stays_so(opened: Catalog) -> None:
    assert not opened.put(record(0), "docker.io/library/a:1").pinned
    assert opened.put(record(1), "pinned.example/a:1").pinned
    assert opened.put(msgspec.structs.replace(record(2), pinned=True), "").pinned
    assert opened.put(record(2), "docker.io/library/a:1").pinned


def test_a_restart_finds_records_and_settles_names(opened: Catalog, tmp_path: Path) -> None:
    first = opened.put(record(0), "docker.io/library/a:1")
    opened.put(record(1), "docker.io/library/b:1")
    # A crash between two writes leaves one name in two records: the later one counts.
    path = tmp_path / "catalog" / f"{image_id(1)[7:]}.json"
    path.write_bytes(path.read_bytes().replace(b'"tags":{', b'"tags":{"docker.io/library/a:1":5,'))
    (tmp_path / "catalog/.half-written.tmp").touch()
    again = Catalog(str(tmp_path), BlobStore(str(tmp_path)), ())
    again.start(str(tmp_path / "quarantine"))
    assert again.resolve("a:1") == first
    assert again.resolve(image_id(1)).repo_tags == ("docker.io/library/b:1",)
    assert not (tmp_path / "catalog/.half-written.tmp").exists()


def test_what_cannot_be_read_is_set_aside(opened: Catalog, tmp_path: Path) -> None:
    opened.put(record(0), "docker.io/library/a:1")
    (tmp_path / "catalog/bad.json").write_bytes(b"{")
    again = Catalog(str(tmp_path), BlobStore(str(tmp_path)), ())
    again.start(str(tmp_path / "quarantine"))
    assert [image.id for image in again.images()] == [image_id(0)]
    assert (tmp_path / "quarantine/image-bad.json").read_bytes() == b"{"


def test_removing_is_idempotent(opened: Catalog) -> None:
    opened.put(record(0), "docker.io/library/a:1")
    opened.remove(image_id(0))
    opened.remove(image_id(0))
    assert opened.images() == []
