import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.images import manifest
from shim.model.image import Platform

DIGEST = "sha256:" + "a" * 64


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def descriptor(kind: str = manifest.OCI_LAYER, **changes: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": DIGEST, "size": 5, **changes}


def document(**changes: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "config": descriptor(manifest.OCI_CONFIG),
        "layers": [descriptor()],
        **changes,
    }


@pytest.mark.parametrize(
    ("value", "declared", "kind"),
    [
        (document(), "", manifest.OCI_MANIFEST),
        (document(), manifest.DOCKER_MANIFEST, manifest.DOCKER_MANIFEST),
        (document(mediaType=manifest.OCI_MANIFEST), "text/plain", manifest.OCI_MANIFEST),
        ({"manifests": []}, "", manifest.OCI_INDEX),
        ({"manifests": [], "mediaType": manifest.DOCKER_INDEX}, "", manifest.DOCKER_INDEX),
    ],
)
def test_what_a_document_is(value: Any, declared: str, kind: str) -> None:
    assert manifest.media_type(dump(value), declared, "here") == kind


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (dump(document(manifests=[])), ""),
        (dump(document(mediaType=manifest.OCI_MANIFEST)), manifest.OCI_INDEX),
        (dump({"manifests": []}), manifest.OCI_MANIFEST),
        (dump({"schemaVersion": 1}), ""),
        (dump(document()), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (dump(document(mediaType="application/other")), ""),
        (dump([]), ""),
        (b"{", ""),
        (b"[" * 100_000, ""),
        (b'{"config": 1, "config": 2}', ""),
        (b"\xff", ""),
    ],
)
def test_documents_that_contradict_themselves_are_refused(data: bytes, declared: str) -> None:
    with pytest.raises(InvalidArgument, match="here"):
        manifest.media_type(data, declared, "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": descriptor("application/vnd.cncf.helm.config.v1+json")},
        {"config": descriptor(manifest.OCI_CONFIG, size=1 << 30)},
        {"config": descriptor(manifest.OCI_CONFIG, digest="md5:" + "0" * 32)},
        {"layers": {}},
        {"layers": [1]},
        {"layers": [descriptor(size=-1)]},
        {"layers": [descriptor(size=True)]},
        {"layers": [descriptor(size="5")]},
        {"layers": [descriptor(size=1 << 63)]},
        {"layers": [descriptor(digest="sha256:../../x")]},
        {"layers": [descriptor(digest=DIGEST.upper())]},
        {"layers": [descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]},
        {"layers": [descriptor(manifest.OCI_LAYER + "+gzip+encrypted")]},
        {"layers": [descriptor("text/plain")]},
        {"layers": [descriptor()] * 501},
        {"layers": [descriptor(annotations=[1])]},
    ],
)
def test_manifests_that_are_no_images_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="here"):
        manifest.parse_manifest(dump(document(**changes)), "here")


def test_a_configuration_is_read_whole() -> None:
    config = manifest.parse_config(
        dump(
            {
                "os": "linux",
                "architecture": "arm",
                "variant": "v7",
                "created": "2024-01-01T00:00:00Z",
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
                "config": {
                    "User": "me",
                    "Env": ["A=1"],
                    "Entrypoint": "/old/docker/wrote/a/text",
                    "Cmd": None,
                    "Volumes": {"/data": {}},
                    "Labels": {"a": "b"},
                    "StopSignal": "SIGQUIT",
                    "WorkingDir": "/w",
                },
            }
        ),
        "here",
    )
    assert config.platform == Platform("linux", "arm", "v7")
    assert config.diff_ids == (DIGEST,)
    assert config.execution.entrypoint == ("/old/docker/wrote/a/text",)
    assert config.execution.cmd == ()
    assert config.execution.volumes == ("/data",)
    assert config.execution.labels == {"a": "b"}
    assert (config.execution.user, config.execution.stop_signal) == ("me", "SIGQUIT")


@pytest.mark.parametrize(
    "inner",
    [{"Env": "A=1"}, {"Env": [1]}, {"User": 5}, {"Volumes": [1]}, {"Labels": {"a": 1}}, {"Cmd": {}}, [1]],
)
def test_a_malformed_configuration_is_refused(inner: Any) -> None:
    with pytest.raises(InvalidArgument, match="here"):
        manifest.parse_config(dump({"config": inner, "rootfs": {"diff_ids": []}}), "here")


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
json_values = (
    scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
)
keys = st.sampled_from(["config", "layers", "manifests", "mediaType", "schemaVersion", "rootfs", "os"])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keys, json_values, max_size=5))
def test_any_object_is_read_or_refused(value: dict[str, Any]) -> None:
    for parse in (manifest.parse_manifest, manifest.parse_index, manifest.parse_config):
        with contextlib.suppress(InvalidArgument):
            assert parse(dump(value), "here") is not None
