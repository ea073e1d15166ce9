"""Images for the measurements, made from numbers, and a registry of our own that serves them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
import re
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

LARGE_LAYERS = 8
_PER_DIRECTORY = 20
_TYPES = "application/vnd.oci.image"


def large(mib: int) -> list[bytes]:
    """Return compressed layers with so many MiB in files of some 2 MiB: half of it compresses well."""
    chance = random.Random(1)
    return [large_of(chance, mib // LARGE_LAYERS) for _ in range(LARGE_LAYERS)]


def large_of(chance: random.Random, mib: int) -> bytes:
    """Return one compressed layer of large files."""
    words = [bytes(chance.choices(b"etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(5000)]
    left, files, part = mib << 20, [], chance.randrange(1 << 20)
    while left > 0:
        size = min(left, chance.randint(1 << 20, 3 << 20))
        text = b" ".join(chance.choices(words, k=size // 12 + 1))[: size // 2]
        files.append((f"usr/lib/part{part}/file{len(files)}", text + chance.randbytes(size - len(text))))
        left -= size
    return _layer(files)


def small_files(count: int) -> list[bytes]:
    """Return one compressed layer of so many files of up to 4 KiB."""
    chance = random.Random(2)
    text = b" ".join(chance.randbytes(4).hex().encode() for _ in range(100_000))
    files = []
    for number in range(count):
        start, size = chance.randrange(len(text) - 4096), int(4096 * chance.random() ** 3)
        name = f"opt/app/node_modules/package{number // _PER_DIRECTORY}/lib/module{number}.js"
        files.append((name, text[start : start + size]))
    return [_layer(files)]


def _layer(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        known = set()
        for name, data in files:
            parents = name.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                directory = "/".join(parents[:depth])
                if directory not in known:
                    known.add(directory)
                    info = tarfile.TarInfo(directory)
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                    archive.addfile(info)
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """Debian's docker-registry on loopback."""

    host: str
    log: Path

    def push(self, name: str, layers: list[bytes]) -> str:
        """Put an image of compressed layers in; return its reference."""
        diff_ids = [_digest(gzip.decompress(layer)) for layer in layers]
        config = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }
        ).encode()
        described = [
            {"mediaType": f"{_TYPES}.layer.v1.tar+gzip", "digest": _digest(layer), "size": len(layer)}
            for layer in layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_TYPES}.manifest.v1+json",
            "config": {
                "mediaType": f"{_TYPES}.config.v1+json",
                "digest": _digest(config),
                "size": len(config),
            },
            "layers": described,
        }
        with httpx.Client(base_url=f"http://{self.host}/v2/{name}", trust_env=False, timeout=60) as client:
            for data in (config, *layers):
                place = client.post("/blobs/uploads/").headers["Location"]
                client.put(f"{place}&digest={_digest(data)}", content=data).raise_for_status()
            headers = {"Content-Type": str(manifest["mediaType"])}
            client.put(
                "/manifests/v1", content=json.dumps(manifest).encode(), headers=headers
            ).raise_for_status()
        print(f"{name}: {len(layers)} layers, {sum(map(len, layers)) / 1e6:.0f} MB compressed")
        return f"{self.host}/{name}:v1"

    def blobs_fetched(self) -> int:
        """Return how many blobs it was asked for so far."""
        return len(re.findall(r'"GET /v2/\w+/blobs/', self.log.read_text()))


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[Registry]:
    """Run a registry that keeps its blobs in ``directory``; it ends with the context."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{sock.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}},
        "http": {"addr": host},
    }
    (directory / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML
    log = directory / "registry.log"
    command = ["docker-registry", "serve", str(directory / "registry.yml")]
    with log.open("wb") as file:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdout=file, stderr=file)
    try:
        for _ in range(100):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://{host}/v2/", trust_env=False)
                break
            time.sleep(0.1)
        yield Registry(host, log)
    finally:
        process.terminate()
        process.wait()
