"""Images built in memory, a real registry on loopback that serves them, and stores to bring them into."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from gateway import Fake, openssl, running

from shim.images import manifest as kinds
from shim.images.settings import Settings
from shim.images.store import ImageStore
from shim.kernel import mount

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "tar+gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "tar+zstd": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_tar(*entries: tuple[str, Any], **common: Any) -> bytes:
    """Entries are (name, content): bytes a file, None a directory, a text a symbolic link, a dict TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mtime, info.mode, data = 1_700_000_000, 0o644, b""
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content, 0o777
            elif isinstance(content, dict):
                data = content.get("data", b"")
                for key, value in content.items():
                    if key != "data":
                        setattr(info, key, value)
            else:
                data = content
            for key, value in common.items():
                setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Built:
    """An image as a registry holds it. ``blobs``: digest -> content; the last document is the one to name."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    media_type: str = kinds.OCI_MANIFEST
    id: str = ""
    others: tuple[tuple[str, bytes], ...] = ()  # (media type, manifest) that an index names

    digest_of = staticmethod(digest_of)

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def layers(self) -> list[str]:
        return [entry["digest"] for entry in json.loads(self.manifest)["layers"]]


def build(
    *layers: bytes,
    packing: str = "tar+gzip",
    docker: bool = False,
    config: Mapping[str, Any] | None = None,
    platform: tuple[str, str] = ("linux", "amd64"),
) -> Built:
    """Return an image of plain tar streams."""
    made = Built(media_type=kinds.DOCKER_MANIFEST if docker else kinds.OCI_MANIFEST)
    kind = (
        "application/vnd.docker.image.rootfs.diff.tar" if docker else "application/vnd.oci.image.layer.v1.tar"
    )
    suffix = packing.removeprefix("tar")
    if docker:
        suffix = suffix.replace("+gzip", ".gzip")
    described = []
    for layer in layers:
        data = PACKERS[packing](layer)
        made.blobs[digest_of(data)] = data
        described.append({"mediaType": kind + suffix, "digest": digest_of(data), "size": len(data)})
    document = {
        "os": platform[0],
        "architecture": platform[1],
        "config": {"Cmd": ["/bin/true"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    }
    data = json.dumps(document).encode()
    made.id = digest_of(data)
    made.blobs[made.id] = data
    parts = {
        "schemaVersion": 2,
        "mediaType": made.media_type,
        "config": {
            "mediaType": kinds.DOCKER_CONFIG if docker else kinds.OCI_CONFIG,
            "digest": made.id,
            "size": len(data),
        },
        "layers": described,
    }
    made.manifest = json.dumps(parts).encode()
    return made


def build_index(*images: tuple[Built, str], docker: bool = False) -> Built:
    """Return an index of images, each with its architecture."""
    entries = [
        {
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": len(image.manifest),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for image, architecture in images
    ]
    kind = kinds.DOCKER_INDEX if docker else kinds.OCI_INDEX
    document = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
    return Built(
        blobs={name: data for image, _ in images for name, data in image.blobs.items()},
        manifest=json.dumps(document).encode(),
        media_type=kind,
        others=tuple((image.media_type, image.manifest) for image, _ in images),
    )


def push(base: str, name: str, tag: str, image: Built) -> None:
    """Put an image into a registry that wants no credentials."""
    with httpx.Client(base_url=f"{base}/v2/{name}", trust_env=False, timeout=30) as client:
        for digest, data in image.blobs.items():
            if client.head(f"/blobs/{digest}").status_code == 200:
                continue
            place = client.post("/blobs/uploads/").headers["Location"]
            answer = client.put(f"{place}&digest={digest}", content=data)
            assert answer.status_code == 201, answer.text
        documents = [(digest_of(data), kind, data) for kind, data in image.others]
        for reference, kind, data in [*documents, (tag, image.media_type, image.manifest)]:
            answer = client.put(f"/manifests/{reference}", content=data, headers={"Content-Type": kind})
            assert answer.status_code == 201, answer.text


@dataclass
class Server:
    """A docker-registry of our own. ``host``: for references."""

    host: str
    storage: Path
    log: Path
    scheme: str = "http"

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.host}"

    def push(self, name: str, tag: str, image: Built) -> str:
        push(self.base, name, tag, image)
        return f"{self.host}/{name}:{tag}"

    def layers_of(self, name: str, tag: str) -> list[str]:
        with httpx.Client(base_url=f"{self.base}/v2/{name}", trust_env=False) as client:
            document = client.get(f"/manifests/{tag}", headers={"Accept": kinds.ACCEPT}).json()
        return [entry["digest"] for entry in document["layers"]]

    def blob_file(self, digest: str) -> Path:
        value = digest.partition(":")[2]
        return self.storage / "docker/registry/v2/blobs/sha256" / value[:2] / value / "data"

    def fetched(self, name: str) -> list[str]:
        """Return the digests of the blobs of a repository that were fetched, in order."""
        found = re.findall(rf'"GET /v2/{re.escape(name)}/blobs/(sha256:[0-9a-f]+)', self.log.read_text())
        return list(found)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def serve(directory: Path, storage: Path, **sections: Any) -> Iterator[Server]:
    """Run a docker-registry over ``storage``; it dies with this process."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        **sections,
    }
    settings["http"] = {"addr": f"127.0.0.1:{port}", "secret": "test", **settings.get("http", {})}
    config = directory / "registry.yml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    scheme = "https" if "tls" in settings["http"] else "http"
    server = Server(f"127.0.0.1:{port}", storage, directory / "registry.log", scheme)
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(config)],
            stdout=log,
            stderr=log,
        )
    try:
        _wait(port, process, server.log)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    pytest.fail(f"docker-registry does not listen: {log.read_text()}")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which("docker-registry") is None:
        pytest.fail("docker-registry is not installed (Debian: docker-registry)")
    directory = tmp_path_factory.mktemp("registry")
    with serve(directory, directory / "storage") as server:
        yield server


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate for 127.0.0.1 that is its own CA."""
    path = tmp_path_factory.mktemp("identity")
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry test"),
        *("-addext", "subjectAltName=IP:127.0.0.1,DNS:registry.test"),
        *("-keyout", str(path / "key.pem"), "-out", str(path / "cert.pem")),
    )
    return path


@pytest.fixture
def fakes() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def make() -> Fake:
            fake = Fake()
            stack.enter_context(running(fake))
            return fake

        yield make


@pytest.fixture(scope="session")
def tools() -> Any:
    """The builders of this file, for tests: test files cannot import it."""

    class Tools:
        tar = staticmethod(make_tar)
        image = staticmethod(build)
        index = staticmethod(build_index)
        digest = staticmethod(digest_of)
        serve = staticmethod(serve)
        free_port = staticmethod(free_port)
        leftovers = staticmethod(leftovers)
        overlay = staticmethod(overlay)
        tree = staticmethod(tree)
        matches = staticmethod(lambda pattern, text: bool(re.search(pattern, text)))

    return Tools


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once where a registry failed."""
    monkeypatch.setattr("shim.images.failures._BACKOFF_S", 0.001)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    path = tmp_path / "certs.d"
    path.mkdir()
    return path


@pytest.fixture
def settings(certs: Path) -> Settings:
    return Settings(config_paths=(str(certs),), stall_timeout_s=5.0, connect_timeout_s=2.0)


@pytest.fixture
async def store(tmp_path: Path, settings: Settings) -> AsyncIterator[ImageStore]:
    async with opened(str(tmp_path / "images"), settings) as store:
        yield store


@contextlib.asynccontextmanager
async def opened(root: str, settings: Settings) -> AsyncIterator[ImageStore]:
    store = ImageStore(root, settings)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def open_store(settings: Settings) -> Callable[..., contextlib.AbstractAsyncContextManager[ImageStore]]:
    """Open a store at a path, with other settings if need be."""

    def open_(root: str | Path, **changes: Any) -> contextlib.AbstractAsyncContextManager[ImageStore]:
        return opened(str(root), dataclasses.replace(settings, **changes))

    return open_


def leftovers(root: str | Path) -> list[str]:
    """Return all files and directories of a store that belong to something."""
    top = Path(root)
    kept = ("layers", "ingest", "trash", "catalog", "snapshots", "blobs/sha256", "blobs/sha512")
    return sorted(str(path.relative_to(top)) for name in kept for path in (top / name).iterdir())


def tree(top: Path) -> dict[str, Any]:
    """Return all that can be seen of a tree: path -> (type and mode, owner, time, content, attributes)."""
    found: dict[str, Any] = {}
    names: dict[int, list[str]] = {}
    for directory, inner, files_ in os.walk(top):
        for name in (*inner, *files_):
            path = Path(directory) / name
            info = path.lstat()
            content: Any = info.st_rdev
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = digest_of(path.read_bytes())
                names.setdefault(info.st_ino, []).append(str(path.relative_to(top)))
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in _xattrs(path)}
            facts = (oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, content, xattrs)
            found[str(path.relative_to(top))] = facts
    found["names of one file"] = sorted(sorted(each) for each in names.values() if len(each) > 1)
    return found


def _xattrs(path: Path) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if "overlay" not in name]


@contextlib.contextmanager
def overlay(lowers: tuple[str, ...], directory: Path) -> Iterator[Path]:
    """Give the tree that overlayfs makes of layers, without a mount that anybody else sees."""
    with contextlib.ExitStack() as stack:
        links = []
        empty = directory / "empty"  # overlayfs wants two lower ones at least
        empty.mkdir(exist_ok=True)
        for number, lower in enumerate((*lowers, str(empty))):
            fd = os.open(lower, os.O_PATH)
            stack.callback(os.close, fd)
            links.append(f"/proc/self/fd/{fd}")
            assert number < 50
        tree = mount.new_mount("overlay", "overlay", (f"lowerdir={':'.join(links)}",))
        stack.callback(os.close, tree)
        yield Path(f"/proc/self/fd/{tree}")
