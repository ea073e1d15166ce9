"""A daemon that the tests of hostile containers share, and an image with all that an attacker needs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.kernel import namespaces
from tests.integration.socket.conftest import APPLETS, GROUP, PASSWD, running, scratch_directory

HERE = Path(__file__).parent
EVIL = "example.com/test/evil:1"
DIRECTORY = {"type": tarfile.DIRTYPE, "mode": 0o755}
OPEN = {"type": tarfile.DIRTYPE, "mode": 0o1777}


def link(target: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


def compiled(scratch: Path) -> tuple[bytes, bytes]:
    """Return the attacker's programs: see the sources beside this file."""
    for name, flags in (("evil", ("-O1",)), ("loader", ("-nostdlib", "-fno-stack-protector"))):
        source, target = HERE / f"{name}.c", scratch / name
        subprocess.run(["gcc", "-static", *flags, "-o", str(target), str(source)], check=True)
    return (scratch / "evil").read_bytes(), (scratch / "loader").read_bytes()


def base_layer(daemon: Any) -> bytes:
    evil, loader = compiled(daemon.scratch)
    return daemon.tar(
        ("bin", DIRECTORY, b""),
        ("bin/busybox", {"mode": 0o755}, Path("/bin/busybox").read_bytes()),
        *((f"bin/{name}", link("busybox"), b"") for name in (*APPLETS, "kill", "touch", "mkdir")),
        ("bin/evil", {"mode": 0o755}, evil),
        ("bin/prepared", {"mode": 0o755}, b"#!/proc/self/exe\n"),
        ("lib64", DIRECTORY, b""),
        ("lib64/ld-linux-x86-64.so.2", {"mode": 0o755}, loader),
        ("etc", DIRECTORY, b""),
        ("etc/passwd", {"mode": 0o644}, PASSWD),
        ("etc/group", {"mode": 0o644}, GROUP),
        ("tmp", OPEN, b""),
    )


class Den:
    """A daemon and what it is attacked with.

    Attributes:
        layer: of the attacker's image, for further images.
        marker: a file of the node that no container may ever see.
    """

    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.layer = base_layer(daemon)
        self.marker = daemon.scratch / "marker"
        self.marker.touch()
        daemon.load(EVIL, {"Env": ["PATH=/bin"]}, self.layer)

    def image(self, name: str, *entries: Any, **config: Any) -> str:
        """Load an image that is the attacker's with more on top."""
        reference = f"example.com/test/{name}:1"
        layers = (self.layer, self.daemon.tar(*entries)) if entries else (self.layer,)
        self.daemon.load(reference, {"Env": ["PATH=/bin"]} | config, *layers)
        return reference

    def config(self, *command: str, image: str = EVIL, pid: int = cri.CONTAINER) -> cri.ContainerConfig:
        config = self.daemon.container_config(*command)
        config.image.image = image
        config.linux.security_context.namespace_options.pid = pid
        return config

    def run(self, pod: Any, *command: str, **more: Any) -> str:
        return self.daemon.run(pod, config=self.config(*command, **more))

    def said(self, id_: str, word: str) -> list[str]:
        """Return what comes after a word at the beginning of lines of a container's output."""
        return [line.partition(" ")[2] for line in self.daemon.output(id_) if line.partition(" ")[0] == word]

    def until_said(self, id_: str, word: str) -> None:
        self.daemon.until(lambda: self.said(id_, word))

    def all_said(self, id_: str, last: str) -> list[str]:
        """Return the output of a container, once a line with the word that it ends with is in the log."""
        self.until_said(id_, last)
        return self.daemon.output(id_)

    def shared_pod(self) -> Any:
        """Return a pod whose containers see each other's processes."""
        config = self.daemon.pod_config()
        config.linux.security_context.namespace_options.pid = cri.POD
        return self.daemon.run_pod(config)

    def has_user_namespaces(self) -> bool:
        """Whether this node has user namespaces: memory file systems take an id map since Linux 6.3."""
        handlers = self.daemon.runtime.Status(cri.StatusRequest()).runtime_handlers
        return all(handler.features.user_namespaces for handler in handlers)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread in the daemon's network namespace: a socket stays where it was made."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.daemon.netns}", os.O_RDONLY)
        try:
            namespaces.setns(there, namespaces.CLONE_NEWNET)
            yield
        finally:
            namespaces.setns(before, namespaces.CLONE_NEWNET)
            os.close(before)
            os.close(there)

    def alive(self) -> None:
        """Show that the node works as ever: another pod, a program in it, its log."""
        pod = self.daemon.run_pod()
        id_ = self.daemon.run(pod, "sh", "-c", "echo ready; exec sleep 1000")
        self.daemon.until(lambda: self.daemon.output(id_) == ["ready"])
        assert self.daemon.exec(id_, "echo", "in") == "in\n"
        self.daemon.remove(pod[0])


def start(daemon: Any, pod: Any, config: cri.ContainerConfig) -> tuple[str, grpc.RpcError | None]:
    """Create and start a container; return its id, and why it did not start."""
    id_ = daemon.create(pod, config)
    try:
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
    except grpc.RpcError as error:
        return id_, error
    return id_, None


@contextlib.contextmanager
def den_of(scratch: Path, *settings: str) -> Iterator[Den]:
    with running(scratch, *settings) as daemon:
        yield Den(daemon)


@pytest.fixture(scope="session")
def den() -> Iterator[Den]:
    with den_of(scratch_directory()) as it:
        yield it


@pytest.fixture
def daemon(den: Den) -> Any:
    return den.daemon


@pytest.fixture(autouse=True)
def no_pods_left(den: Den) -> Iterator[None]:
    yield
    den.daemon.remove_all()
