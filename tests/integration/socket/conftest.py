"""A daemon of its own in a network namespace of its own, and requests as a kubelet sends them."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.cgroups import hierarchy, names, systemd
from shim.cli.client import Stub, answers
from shim.kernel import proc
from tests.patience import PATIENCE_S

HIERARCHY = hierarchy.detect(proc.mountinfo())
BY_SYSTEMD = systemd.is_init() and not HIERARCHY.v1
IMAGE = "example.com/test/busybox:1"
BUSYBOX = Path("/bin/busybox")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n"
APPLETS = (
    "sh",
    "cat",
    "sleep",
    "echo",
    "true",
    "hostname",
    "id",
    "ls",
    "dd",
    "nc",
    "usleep",
    "mount",
    "mknod",
    "ulimit",
    "nice",
)


def tar_of(*entries: tuple[str, dict[str, Any], bytes]) -> bytes:
    """Return a tar of entries: name, attributes of tarfile.TarInfo, content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, attributes, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_image(target: Path, reference: str = IMAGE, **more: object) -> None:
    """Write a docker archive of busybox; ``more`` goes into its configuration."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, mode in (
            ("bin/busybox", BUSYBOX.read_bytes(), 0o755),
            ("etc/passwd", PASSWD, 0o644),
            ("etc/group", GROUP, 0o644),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
        for applet in APPLETS:
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
        info = tarfile.TarInfo("tmp")
        info.type, info.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(info)
    write_archive(target, reference, {"Env": ["PATH=/bin"], "Cmd": ["sh"]} | more, out.getvalue())


def write_archive(target: Path, reference: str, config: dict[str, Any], *layers: bytes) -> None:
    """Write a docker archive of layers, the lowest first."""
    whole = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
        },
    }
    text = json.dumps(whole).encode()
    name = hashlib.sha256(text).hexdigest()
    names = [f"layer{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": f"{name}.json", "RepoTags": [reference], "Layers": names}]
    with tarfile.open(target, "w") as tar:
        for path, data in (
            (f"{name}.json", text),
            *zip(names, layers, strict=True),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


class Daemon:
    """``cri-shim serve`` with scratch directories; restarted as often as a test likes."""

    def __init__(self, scratch: Path, settings: tuple[str, ...] = ()) -> None:
        self.scratch = scratch
        self.root, self.state = scratch / "root", scratch / "state"
        self.socket = self.state / "s.sock"
        self.parent = f"/cri-shim-test-{os.getpid()}-{scratch.name[-6:]}"
        self.bridge = "cst" + scratch.name[-6:]
        self.netns = "cri-shim-test-" + scratch.name[-6:]
        self._settings = settings
        self._names = itertools.count(1)
        self.process: subprocess.Popen[bytes] | None = None
        (scratch / "config.toml").write_text("version = 1\n")
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        subprocess.run(["ip", "-n", self.netns, "link", "set", "lo", "up"], check=True)

    def start(self) -> None:
        settings = {
            "cgroup.parent": self.parent,
            "network.bridge": self.bridge,
            "network.netns_dir": f"{self.scratch}/netns",
            "network.cni_conf_dirs": [f"{self.scratch}/net.d"],
            "registry.config_path": [f"{self.scratch}/certs.d"],
            "container.cdi_spec_dirs": [f"{self.scratch}/cdi/etc", f"{self.scratch}/cdi/run"],
        }
        flags = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
        command = [
            sys.executable,
            "-m",
            "shim",
            "serve",
            "--config",
            str(self.scratch / "config.toml"),
            f"--root={self.root}",
            f"--state={self.state}",
        ]
        with (self.scratch / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "nsenter",
                    f"--net=/run/netns/{self.netns}",
                    *command,
                    f"--socket={self.socket}",
                    *flags,
                    *self._settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.channel = grpc.insecure_channel(
            f"unix:{self.socket}",
            options=[("grpc.max_receive_message_length", 16 << 20), ("grpc.enable_http_proxy", 0)],
        )
        runtime = Stub(self.channel, cri, "RuntimeService")
        assert answers(runtime, PATIENCE_S * 3)
        self.runtime: Any = runtime
        self.images: Any = Stub(self.channel, cri, "ImageService")

    def end(self, number: int) -> None:
        assert self.process is not None
        self.channel.close()
        self.process.send_signal(number)
        self.process.wait(timeout=PATIENCE_S * 3)

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.end(number)
        self.start()

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "shim", *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"CRI_SHIM_SOCKET": str(self.socket)},
        )
        return done.stdout

    def in_netns(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.netns}", *command],
            capture_output=True,
            text=True,
            check=False,
        )

    def pids_of(self, module: str) -> list[int]:
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                try:
                    parts = Path(f"/proc/{entry}/cmdline").read_bytes().decode().split("\0")
                except OSError:
                    continue
                if module in parts and any(part.startswith(str(self.state)) for part in parts):
                    found.append(int(entry))
        return sorted(found)

    # Requests

    def pod_config(self, **fields: Any) -> cri.PodSandboxConfig:
        name = f"pod-{next(self._names)}"
        metadata = cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="test")
        config = cri.PodSandboxConfig(
            metadata=metadata, log_directory=f"{self.scratch}/logs/{name}", hostname=name
        )
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        for key, value in fields.items():
            getattr(config, key).extend(value) if isinstance(value, list) else setattr(config, key, value)
        return config

    def run_pod(self, config: cri.PodSandboxConfig | None = None) -> tuple[str, cri.PodSandboxConfig]:
        config = config or self.pod_config()
        return self.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=config)).pod_sandbox_id, config

    def container_config(self, *command: str) -> cri.ContainerConfig:
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main", attempt=next(self._names)),
            image=cri.ImageSpec(image=IMAGE),
            command=command or ("sleep", "1000"),
        )
        config.log_path = f"main/{config.metadata.attempt}.log"
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        return config

    def create(self, pod: tuple[str, cri.PodSandboxConfig], config: cri.ContainerConfig) -> str:
        request = cri.CreateContainerRequest(pod_sandbox_id=pod[0], config=config, sandbox_config=pod[1])
        return self.runtime.CreateContainer(request).container_id

    def run(
        self, pod: tuple[str, cri.PodSandboxConfig], *command: str, config: cri.ContainerConfig | None = None
    ) -> str:
        id_ = self.create(pod, config or self.container_config(*command))
        self.runtime.StartContainer(cri.StartContainerRequest(container_id=id_))
        return id_

    def status(self, id_: str) -> cri.ContainerStatus:
        return self.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id_)).status

    def pid(self, id_: str) -> int:
        answer = self.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id_, verbose=True))
        return json.loads(answer.info["info"])["pid"]

    def exec(self, id_: str, *cmd: str, timeout: int = 0) -> str:
        return self.runtime.ExecSync(
            cri.ExecSyncRequest(container_id=id_, cmd=cmd, timeout=timeout)
        ).stdout.decode()

    def stop(self, id_: str, timeout: int = 0) -> None:
        self.runtime.StopContainer(cri.StopContainerRequest(container_id=id_, timeout=timeout))

    def wait(self, id_: str) -> cri.ContainerStatus:
        self.until(lambda: self.status(id_).state == cri.CONTAINER_EXITED)
        return self.status(id_)

    def output(self, id_: str) -> list[str]:
        """Return what a container has written, line by line; what is just being written not yet."""
        path = Path(self.status(id_).log_path)
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [line.split(" ", 3)[3] for line in whole.splitlines()]

    def cgroup(self, id_: str) -> str:
        """Return the path of a container's cgroup below the root of each hierarchy."""
        if BY_SYSTEMD:
            return names.scope_of(names.own_slice(self.parent), id_)
        return names.of(self.parent, id_)

    def cgroup_parents(self) -> list[str]:
        path = names.own_slice(self.parent) if BY_SYSTEMD else self.parent
        return [mount + path for mount in HIERARCHY.mounts()]

    def until(self, true: Any, seconds: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.02)

    def remove(self, id_: str) -> None:
        self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=id_))
        self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=id_))

    tar = staticmethod(tar_of)

    def load(self, reference: str, config: dict[str, Any], *layers: bytes) -> str:
        """Bring an image in; return its id."""
        write_archive(self.scratch / "other.tar", reference, config, *layers)
        self.command("image", "load", "-i", str(self.scratch / "other.tar"))
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=reference))
        return self.images.ImageStatus(request).image.id

    def remove_all(self) -> None:
        """Remove all pods; return when their addresses are free, which is after the answers."""
        for item in self.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
            self.remove(item.id)
        leases = self.root / "network/leases"
        self.until(lambda: not leases.exists() or not os.listdir(leases))

    def remains(self) -> dict[str, object]:
        """What there is in the kernel and on disk, to be compared before and after."""
        assert self.process is not None
        mounts = Path("/proc/self/mountinfo").read_text()
        cgroups = [at for top in self.cgroup_parents() for at, _, _ in os.walk(top)]
        server = int(self.in_netns("sh", "-c", f"echo {self.process.pid}").stdout)
        return {
            "mounts": mounts.count(str(self.scratch)),
            "cgroups": len(cgroups),
            "netns": sorted(os.listdir(f"{self.scratch}/netns")) if (self.scratch / "netns").exists() else [],
            "links": sorted(
                line.split(":")[1] for line in self.in_netns("ip", "-o", "link").stdout.splitlines()
            ),
            "rules": [
                line
                for line in self.in_netns("nft", "list", "ruleset").stdout.splitlines()
                if "elements" in line
            ],
            "records": sorted(
                str(p.relative_to(self.scratch))
                for p in [
                    *self.root.glob("[!ij]*/*"),
                    *self.state.glob("*/*"),
                    *self.root.glob("network/leases/*"),
                ]
            ),
            "fds": {
                module: [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
                for module, pids in (("daemon", [server]), ("logger", self.pids_of("shim.supervisor.logger")))
            },
        }

    def settled(self) -> dict[str, Any]:
        """Return what remains() tells once it is the same three times: a pod's last things go late."""
        told: list[dict[str, object]] = []

        def same() -> bool:
            told.append(self.remains())
            return len(told) > 2 and told[-3] == told[-2] == told[-1]

        self.until(same)
        return told[-1]

    def until_again(self, before: dict[str, Any]) -> None:
        """Wait until there is what was there before, and no more descriptors; else say what differs."""

        def left() -> dict[str, object]:
            now: dict[str, Any] = self.remains()
            # Fewer are no leak: something may have been let go late.
            fewer = all(map(_fit, now["fds"].values(), before["fds"].values()))
            return now | {"fds": before["fds"] if fewer else now["fds"]}

        try:
            self.until(lambda: left() == before)
        except AssertionError:
            assert left() == before

    def kill(self) -> None:
        """After a failure: end what runs, unmount what is mounted."""
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        for module in ("shim.supervisor.main", "shim.supervisor.logger"):
            for pid in self.pids_of(module):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", self.netns], check=False, capture_output=True)

    def close(self) -> None:
        """Remove everything, end the daemon, and show that nothing is left."""
        self.remove_all()
        self.end(signal.SIGTERM)
        self.until(
            lambda: not self.pids_of("shim.supervisor.main") and not self.pids_of("shim.supervisor.logger")
        )
        left = [
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(self.scratch) in line
        ]
        links = self.in_netns("ip", "-o", "link").stdout.count(self.bridge)
        subprocess.run(["ip", "netns", "delete", self.netns], check=True)
        assert (left, links) == ([], 0)
        if BY_SYSTEMD:  # a slice stays until somebody stops it
            slice_ = os.path.basename(names.own_slice(self.parent))
            subprocess.run(["systemctl", "stop", slice_], check=True)
        assert not [top for top in self.cgroup_parents() if os.path.exists(top)]


def _fit(now: list[int], before: list[int]) -> bool:
    return len(now) == len(before) and all(map(operator.le, now, before))


def scratch_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="cri-shim-test-", dir="/var/tmp"))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon that the tests of a module share; each test cleans up by removing its pods."""
    with running(scratch_directory()) as it:
        yield it


@contextmanager
def running(scratch: Path, *settings: str) -> Iterator[Daemon]:
    """A daemon with an image, that leaves nothing."""
    it = Daemon(scratch, settings)
    try:
        make_image(scratch / "image.tar")
        it.start()
        it.command("image", "load", "-i", str(scratch / "image.tar"))
        it.remove(it.run_pod()[0])  # what all pods share is there from now on
        it.until(lambda: not list((it.root / "network/leases").iterdir()))
        yield it
        it.close()
    finally:
        sys.stderr.write((scratch / "daemon.log").read_text()[-3000:])
        it.kill()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_pods_left(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_all()
