"""Three replicas of a web application from one image, and a daemon that is killed in the middle.

Run by ``hack/demo``. Each step prints what it does and what it saw, and ends the program if that is wrong.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from shim._proto import api_pb2 as cri
from shim.cli.client import Stub, answers

APP = Path(__file__).parents[1] / "examples/app.js"
IMAGE = "example.com/web/hello:1"
REPLICAS = ("red", "green", "blue")
FIRST_PORT = 18081
MEMORY = (96 << 20, 128 << 20, 160 << 20)
QUOTA_US = (50_000, 60_000, 70_000)
CGROUP_PARENT = "/cri-shim-demo"
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "user")


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


def show(text: str) -> None:
    print(f"   {text}", flush=True)


def check(fact: bool, text: str) -> None:
    """Print a fact that held, or end with the one that did not."""
    if not fact:
        sys.exit(f"\nFAILED: {text}")
    show(f"ok: {text}")


# ---- the image ------------------------------------------------------------


def files_of_node() -> Iterator[tuple[str, Path]]:
    """Node.js and every shared library that it needs, as (path in the image, path here)."""
    node = Path("/usr/bin/node").resolve()
    yield "usr/bin/node", node
    libraries = subprocess.run(["ldd", node], capture_output=True, text=True, check=True).stdout
    for library in sorted(set(re.findall(r"(/\S+) \(0x", libraries))):
        yield library.lstrip("/"), Path(library).resolve()
    # Debian's Node.js reads parts of its own library from there.
    for file in sorted(Path("/usr/share/nodejs").rglob("*.js")):
        if file.is_file():  # other packages have directories of such names there
            yield str(file).lstrip("/"), file.resolve()


def make_image(target: Path) -> None:
    """Write an OCI layout with two layers: Node.js, and the application."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layers = [layer(files_of_node()), layer([("app.js", APP)])]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/node"],
            "Cmd": ["/app.js"],
            "WorkingDir": "/",
            "Env": ["PATH=/usr/bin"],
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers],
        },
    }
    image = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{image}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), f"{image}.config.v1+json"),
        "layers": [blob(data, f"{image}.layer.v1.tar") for data in layers],
    }
    entry = blob(json.dumps(manifest).encode(), f"{image}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": IMAGE, "io.containerd.image.name": IMAGE}
    index = {"schemaVersion": 2, "manifests": [entry]}
    with tarfile.open(target, "w") as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add(tar, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            add(tar, f"blobs/sha256/{digest}", data)


def layer(files: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, source in files:  # type: ignore[attr-defined]
            info = tarfile.TarInfo(name)
            info.mode, data = 0o755, source.read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


# ---- the daemon -----------------------------------------------------------


class Daemon:
    """A daemon with a scratch root and state of its own."""

    def __init__(self, scratch: Path) -> None:
        self.socket = scratch / "state/cri-shim.sock"
        self.root, self.state = scratch / "root", scratch / "state"
        self.log = scratch / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "cri-shim",
                    "serve",
                    f"--root={self.root}",
                    f"--state={self.state}",
                    f"--socket={self.socket}",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with self.channel() as channel:
            if not answers(Stub(channel, cri, "RuntimeService"), 60):
                raise TimeoutError(f"no daemon answers at {self.socket}")

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.socket}", options=[("grpc.default_authority", "localhost")])

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=30)

    def give_up(self) -> None:
        """Show what the daemon said last, remove what is left, and end it."""
        if self.process is None:
            return
        print(f"\n--- last lines of the daemon's log\n{self.log.read_text()[-4000:]}", file=sys.stderr)
        if self.process.poll() is not None:
            self.start()
        with self.channel() as channel:
            runtime = Stub(channel, cri, "RuntimeService")
            for pod in runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
                runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod.id))
                runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
        self.signal(signal.SIGTERM)

    def command(self, *arguments: object) -> str:
        done = subprocess.run(
            ["cri-shim", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"CRI_SHIM_SOCKET": str(self.socket)},
        )
        if done.returncode:
            sys.exit(f"\nFAILED: cri-shim {arguments}: {done.stderr}")
        return done.stdout


# ---- pods -----------------------------------------------------------------


class Pod:
    """One replica: a sandbox with an address, a host port and limits, and the application in it."""

    def __init__(self, runtime: Stub, index: int, logs: Path) -> None:
        self.runtime, self.name, self.port = runtime, f"hello-{REPLICAS[index]}", FIRST_PORT + index
        self.memory, self.quota = MEMORY[index], QUOTA_US[index]
        self.config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=self.name, uid=f"uid-{self.name}", namespace="demo"),
            hostname=self.name,
            log_directory=str(logs / self.name),
            port_mappings=[cri.PortMapping(container_port=8080, host_port=self.port)],
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=CGROUP_PARENT,
                security_context=cri.LinuxSandboxSecurityContext(
                    namespace_options=cri.NamespaceOption(pid=cri.NamespaceMode.CONTAINER)
                ),
            ),
        )
        self.sandbox = self.container = ""

    def start(self) -> None:
        self.sandbox = self.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=self.config)).pod_sandbox_id
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="web"),
            image=cri.ImageSpec(image=IMAGE),
            log_path="web.log",
            linux=cri.LinuxContainerConfig(
                resources=cri.LinuxContainerResources(
                    memory_limit_in_bytes=self.memory, cpu_period=100_000, cpu_quota=self.quota
                )
            ),
        )
        request = cri.CreateContainerRequest(
            pod_sandbox_id=self.sandbox, config=config, sandbox_config=self.config
        )
        self.container = self.runtime.CreateContainer(request).container_id
        self.runtime.StartContainer(cri.StartContainerRequest(container_id=self.container))

    def address(self) -> str:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=self.sandbox)
        return str(self.runtime.PodSandboxStatus(request).status.network.ip)

    def pid(self) -> int:
        request = cri.ContainerStatusRequest(container_id=self.container, verbose=True)
        return int(json.loads(self.runtime.ContainerStatus(request).info["info"])["pid"])

    def evaluate(self, javascript: str) -> str:
        """Run JavaScript inside the container and return what it printed."""
        request = cri.ExecSyncRequest(
            container_id=self.container, cmd=["/usr/bin/node", "-e", javascript], timeout=30
        )
        answer = self.runtime.ExecSync(request)
        if answer.exit_code:
            sys.exit(f"\nFAILED: {javascript}: {answer.stderr.decode()}")
        return str(answer.stdout.decode().strip())

    def ask(self) -> str:
        """Return what the application answers on the pod's host port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        finally:
            connection.close()

    def ask_patiently(self) -> str:
        """Ask until the application listens; Node.js takes a moment to start."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.ask()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def remove(self) -> None:
        self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=self.sandbox))
        self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=self.sandbox))


class Client(threading.Thread):
    """Asks every pod, over and over, and counts answers and failures."""

    def __init__(self, pods: list[Pod]) -> None:
        super().__init__(daemon=True)
        self.pods, self.answers, self.failures = pods, 0, []
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            for pod in self.pods:
                try:
                    right = pod.ask() == f"Container Hostname: {pod.name}"
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(f"{pod.name}: {error!r}")
                else:
                    self.answers += 1
                    if not right:
                        self.failures.append(f"{pod.name}: wrong answer")


# ---- the story ------------------------------------------------------------


def show_namespaces(pods: list[Pod]) -> None:
    links = {pod.name: {ns: os.readlink(f"/proc/{pod.pid()}/ns/{ns}") for ns in NAMESPACES} for pod in pods}
    here = {ns: os.readlink(f"/proc/self/ns/{ns}") for ns in NAMESPACES}
    for ns in NAMESPACES:
        seen = [links[pod.name][ns] for pod in pods]
        own = len({*seen, here[ns]}) == len(seen) + 1
        show(f"{ns:5} {'its own' if own else 'the host s'.replace(' s', chr(39) + 's'):10} " + " ".join(seen))
        check(own or ns == "user", f"{ns} namespace: {'one for each pod' if own else 'shared with the host'}")


LIMITS = """
const fs = require('fs');
const first = (...names) => names.filter(n => fs.existsSync(n)).map(n => fs.readFileSync(n, 'utf8').trim())[0];
console.log(JSON.stringify([
  first('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'),
  first('/sys/fs/cgroup/cpu.max', '/sys/fs/cgroup/cpu/cpu.cfs_quota_us')]))
"""


def show_limits(pods: list[Pod]) -> None:
    for pod in pods:
        memory, quota = json.loads(pod.evaluate(LIMITS))
        show(f"{pod.name}: memory {memory}, cpu quota {quota}")
        check(int(memory) == pod.memory, f"{pod.name} sees its memory limit of {pod.memory >> 20} MiB")
        check(int(quota.split()[0]) == pod.quota, f"{pod.name} sees its CPU quota of {pod.quota} us")


def show_layers(daemon: Daemon, pods: list[Pod]) -> None:
    copies = [p for p in daemon.root.rglob("usr/bin/node") if p.is_file()]
    show(f"node lies at {', '.join(str(p.relative_to(daemon.root)) for p in copies)}")
    check(len(copies) == 1, "the layers of three containers lie on disk once")
    pods[0].evaluate("require('fs').writeFileSync('/mine', 'only here')")
    check(
        pods[0].evaluate("console.log(require('fs').readFileSync('/mine', 'utf8'))") == "only here",
        "a file written in one pod is there",
    )
    for pod in pods[1:]:
        check(
            pod.evaluate("console.log(require('fs').existsSync('/mine'))") == "false",
            f"and it is not in {pod.name}",
        )


def kill_in_the_middle(daemon: Daemon, pods: list[Pod]) -> None:
    before = {pod.name: pod.pid() for pod in pods}
    client = Client(pods)
    client.start()
    time.sleep(1)
    daemon.signal(signal.SIGKILL)
    show("the daemon was killed with SIGKILL")
    at_kill = client.answers
    time.sleep(2)
    while_down = client.answers - at_kill
    daemon.start()
    show("a new daemon runs")
    time.sleep(1)
    client.stopping.set()
    client.join(timeout=20)
    check(while_down > 0, f"{while_down} requests were answered while no daemon ran")
    check(not client.failures, f"{client.answers} requests, none failed {client.failures[:3] or ''}")
    check({pod.name: pod.pid() for pod in pods} == before, "every container has the process it had")


def leftovers(scratch: Path) -> list[str]:
    """What a clean end must not leave: mounts, cgroups, links, namespaces, processes, rules."""
    found = [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(scratch) in line
    ]
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found += map(str, Path(mount).glob(CGROUP_PARENT.lstrip("/") + "*"))
    found += [str(p) for p in Path("/sys/class/net").glob("cri-shim*")]
    found += [str(p) for p in Path("/run/netns").glob("cri-shim*")] if Path("/run/netns").exists() else []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(scratch).encode() in (entry / "cmdline").read_bytes():
                    found.append(f"process {entry.name}")
            except OSError:
                continue
    return found


@contextmanager
def step(text: str) -> Iterator[None]:
    say(text)
    start = time.monotonic()
    yield
    show(f"({time.monotonic() - start:.2f} s)")


def tell(daemon: Daemon, scratch: Path) -> None:
    with step("An image from this machine's Node.js and an application of three lines"):
        archive = scratch / "hello.tar"
        make_image(archive)
        daemon.start()
        show(daemon.command("image", "load", "-i", archive).strip())
        show(daemon.command("image", "list").strip().replace("\n", "\n   "))
    with daemon.channel() as channel:
        runtime = Stub(channel, cri, "RuntimeService")
        pods = [Pod(runtime, index, scratch / "logs") for index in range(len(REPLICAS))]
        with step("Three pods from that one image"):
            for pod in pods:
                begin = time.monotonic()
                pod.start()
                show(
                    f"{pod.name}: address {pod.address()}, host port {pod.port}, pid {pod.pid()}, started in {(time.monotonic() - begin) * 1000:.0f} ms"
                )
        with step("A request to each"):
            for pod in pods:
                answer = pod.ask_patiently()
                check(answer == f"Container Hostname: {pod.name}", f"port {pod.port} answers: {answer}")
            check(len({pod.address() for pod in pods}) == len(pods), "each has an address of its own")
        with step("Six namespaces"):
            show_namespaces(pods)
        with step("Limits, read from inside"):
            show_limits(pods)
        with step("One copy of the layers, a writable layer for each"):
            show_layers(daemon, pods)
        with step("The daemon is killed while a client keeps asking"):
            kill_in_the_middle(daemon, pods)
        with step("Logs"):
            log = (scratch / "logs" / pods[0].name / "web.log").read_text().splitlines()
            show(log[0])
            check("Test server starting..." in log[0], "the application's first line is in its log")
        with step("Everything is removed"):
            for pod in pods:
                pod.remove()
            daemon.command("image", "remove", IMAGE)
            check(not list(daemon.root.rglob("usr/bin/node")), "the layers are gone from the disk")
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: not leftovers(scratch))
    check(
        not leftovers(scratch),
        f"nothing is left: no process, mount, cgroup, link or namespace {leftovers(scratch) or ''}",
    )


def wait_until(fact: Callable[[], bool], timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact() and time.monotonic() < deadline:
        time.sleep(0.1)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cri-shim-demo-", dir="/var/tmp") as name:
        scratch = Path(name)
        daemon = Daemon(scratch)
        try:
            tell(daemon, scratch)
        except BaseException:
            daemon.give_up()
            raise
    say("Done.")


if __name__ == "__main__":
    main()
