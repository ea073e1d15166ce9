"""Pulls as kubelets and people ask for them: many at once, left half-way, watched, explained, refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway import Answer, Fake, Request, running

from shim._proto import api_pb2 as cri
from shim.kernel import namespaces

pytestmark = [pytest.mark.root]

PODS = 10


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_site(netns: str) -> Fake:
    """Return a server whose socket is in the daemon's network namespace, though this process is not."""
    made: list[Fake] = []

    def make() -> None:
        fd = os.open(f"/run/netns/{netns}", os.O_RDONLY)
        try:
            namespaces.setns(fd)  # of this thread alone, which ends here
            made.append(Fake())
        finally:
            os.close(fd)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@pytest.fixture
def site(daemon: Any) -> Iterator[Fake]:
    fake = make_site(daemon.netns)
    with running(fake):
        yield fake


class Offer:
    """An image of one layer at a registry, whose layer comes when the test lets it."""

    def __init__(self, daemon: Any, site: Fake) -> None:
        layer = daemon.tar(
            ("bin/busybox", {"mode": 0o755}, Path("/bin/busybox").read_bytes()), ("mark", {}, os.urandom(64))
        )
        config = {
            "os": "linux",
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "config": {"Cmd": ["/bin/busybox", "sleep", "1000"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        }
        self.layer, self.config = gzip.compress(layer, 1), json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest_of(self.config),
                "size": len(self.config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": digest_of(self.layer),
                    "size": len(self.layer),
                }
            ],
        }
        self.go = threading.Event()
        self.name = f"{site.host}/app:v1"
        self.id = digest_of(self.config)
        kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        site.answers["/manifests/v1"] = Answer(headers=kind, body=json.dumps(manifest).encode())
        site.answers[f"/blobs/{self.id}"] = Answer(body=self.config)
        site.answers[f"/blobs/{digest_of(self.layer)}"] = self._wait

    def _wait(self, _: Request) -> Answer:
        self.go.wait(30)
        return Answer(body=self.layer)


@pytest.fixture
def offer(daemon: Any, site: Fake) -> Iterator[Offer]:
    made = Offer(daemon, site)
    yield made
    made.go.set()
    daemon.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=made.name)))


def pulls(daemon: Any) -> Any:
    info = daemon.runtime.Status(cri.StatusRequest(verbose=True)).info
    return json.loads(info["pulls"])


def ask(daemon: Any, name: str, config: cri.PodSandboxConfig | None = None) -> Any:
    """Begin a pull as a kubelet does; return its future."""
    request = cri.PullImageRequest(image=cri.ImageSpec(image=name), sandbox_config=config)
    return daemon.images.PullImage.future(request)


def test_ten_pods_that_want_an_image_at_once_cost_one_pull(daemon: Any, site: Fake, offer: Offer) -> None:
    with futures.ThreadPoolExecutor(PODS) as pool:
        pods = list(pool.map(lambda _: daemon.run_pod(), range(PODS)))
        asked = [ask(daemon, offer.name, config) for _, config in pods]
        daemon.until(lambda: [pull["callers"] for pull in pulls(daemon)] == [PODS])
        offer.go.set()
        assert {future.result(60).image_ref for future in asked} == {offer.id}

        def start(pod: Any) -> str:
            config = daemon.container_config("/bin/busybox", "sleep", "1000")
            config.image.image = offer.name
            return str(daemon.run(pod, config=config))

        containers = list(pool.map(start, pods))
    for container in containers:
        assert daemon.status(container).state == cri.CONTAINER_RUNNING
    assert sorted(target.rpartition("/")[2] for _, target, _ in site.requests) == sorted(
        ["v1", offer.id, digest_of(offer.layer)]
    )
    daemon.remove_all()


def test_who_leaves_does_not_stop_the_others_but_the_last_does(daemon: Any, site: Fake, offer: Offer) -> None:
    asked = [ask(daemon, offer.name) for _ in range(3)]
    daemon.until(lambda: [pull["callers"] for pull in pulls(daemon)] == [3])
    daemon.until(lambda: site.asked("/blobs/" + digest_of(offer.layer)))
    for future in asked[:2]:
        future.cancel()
    daemon.until(lambda: [pull["callers"] for pull in pulls(daemon)] == [1])
    asked[2].cancel()
    daemon.until(lambda: pulls(daemon) == [])
    again = ask(daemon, offer.name)
    daemon.until(lambda: len(site.asked("/blobs/" + digest_of(offer.layer))) == 2)
    offer.go.set()
    assert again.result(60).image_ref == offer.id


def test_status_tells_how_far_a_pull_is(daemon: Any, offer: Offer) -> None:
    future = ask(daemon, offer.name)
    daemon.until(lambda: [pull["layers"] for pull in pulls(daemon)] == [1])
    (pull,) = pulls(daemon)
    assert pull["image"] == offer.name
    assert (pull["layersDone"], pull["unpackedBytes"]) == (0, 0)
    daemon.until(lambda: pulls(daemon)[0]["totalBytes"] == len(offer.layer))
    assert pull["fetchedBytes"] >= len(offer.config)
    offer.go.set()
    future.result(60)
    assert pulls(daemon) == []


def test_people_see_a_pull_go_on(daemon: Any, offer: Offer) -> None:
    offer.go.set()
    command = [sys.executable, "-m", "shim", "image", "pull", "--socket", str(daemon.socket), offer.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == offer.id
    short = digest_of(offer.layer)[7:19]
    assert f"{short}: done" in done.stderr
    subprocess.run([*command[:-1], offer.name], capture_output=True, text=True, check=True)


def test_a_pull_that_fails_says_what_a_kubelet_looks_for(daemon: Any, site: Fake) -> None:
    for name, code, start in (
        ("127.0.0.1:9/app:v1", grpc.StatusCode.UNKNOWN, "RegistryUnavailable: "),
        (f"{site.host}/none:v1", grpc.StatusCode.NOT_FOUND, "failed to resolve reference"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            ask(daemon, name).result(60)
        error: Any = caught.value
        assert error.code() is code
        assert start in error.details()
        assert name.partition("/")[0] in error.details()


def test_a_pull_is_explained_and_tried(daemon: Any, site: Fake, offer: Offer) -> None:
    offer.go.set()
    directory = daemon.scratch / "certs.d" / "registry.test"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts.toml").write_text(f'[host."http://{site.host}"]\nfoo = 1\n')
    told = daemon.command("registry", "explain", "registry.test/app:v1")
    lines = told.splitlines()
    assert lines[0] == "registry.test/app:v1"
    assert lines[1].endswith("unknown key 'foo' of [host.\"http://" + site.host + '"]')
    assert lines[2] == f"  by {directory}/hosts.toml"
    assert f"  1. http://{site.host}/v2" in lines
    assert "  2. https://registry.test/v2" in lines
    assert site.requests == []
    tried = daemon.command("registry", "test", "registry.test/app:v1").splitlines()
    assert [line.split()[0] for line in tried[:4]] == [
        f"http://{site.host}/v2",
        "connect",
        "manifest",
        "blob",
    ]
    assert "FAILED" in tried[-1]
    (directory / "hosts.toml").write_text("sever = 1\nhost = 1\n")
    failed = subprocess.run(
        [
            sys.executable,
            "-m",
            "shim",
            "registry",
            "test",
            "--socket",
            str(daemon.socket),
            "registry.test/app",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert f"malformed {directory}/hosts.toml" in failed.stderr
    (directory / "hosts.toml").unlink()
    directory.rmdir()


def test_offline_nobody_is_asked(daemon: Any, site: Fake, offer: Offer) -> None:
    offer.go.set()
    settings = '[registry]\noffline = true\ndocker_config = "/none.json"\n'
    config = daemon.scratch / "config.toml"
    before = config.read_text()
    config.write_text(before + settings)
    daemon.restart(signal.SIGTERM)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            ask(daemon, offer.name).result(60)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "this node is offline" in error.details()
        assert site.requests == []
    finally:
        config.write_text(before)
        daemon.restart(signal.SIGTERM)
    assert ask(daemon, offer.name).result(60).image_ref == offer.id
