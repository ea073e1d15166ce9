"""Exchange images with umoci, buildah, skopeo and podman. Run by ``hack/interop``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import bench_images_made as made
import bench_images_main as daemons
import bench_pods

from shim.images.settings import Settings
from shim.images.store import ImageStore
from shim.kernel import mount
from shim.model.image import Image

BUSYBOX = "/bin/busybox"
TIME = 1_700_000_000
CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
XATTRS = {"SCHILY.xattr.user.note": "here", "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}


def run(*command: str, quiet: bool = True) -> str:
    """Run a program; return what it prints.

    Raises:
        RuntimeError: it failed; with its words.
    """
    done = subprocess.run(command, capture_output=quiet, text=True, env={**os.environ, "TMPDIR": "/var/tmp"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout or ""


def write_tar(path: Path, entries: list[tuple[str, dict[str, Any]]]) -> None:
    """Write a tar file of (name, fields of TarInfo and ``data``)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields in entries:
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = TIME, 0o755 if fields.get("type") == tarfile.DIRTYPE else 0o644
            for key, value in fields.items():
                if key != "data":
                    setattr(info, key, value)
            data = fields.get("data", b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_layers(directory: Path) -> list[Path]:
    """Write two layers with everything in them that layers of other tools have."""
    folder: dict[str, Any] = {"type": tarfile.DIRTYPE}
    link = tarfile.SYMTYPE
    first = [
        (".", folder),
        ("bin", folder),
        ("bin/busybox", {"data": Path(BUSYBOX).read_bytes(), "mode": 0o755}),
        *((f"bin/{name}", {"type": link, "linkname": "busybox"}) for name in ("sh", "sleep", "true", "cat")),
        ("tmp", {**folder, "mode": 0o1777}),
        ("srv", {**folder, "mode": 0o2750, "uid": 1000, "gid": 65534}),
        ("srv/owned", {"data": b"owned", "uid": 70_000, "gid": 80_000, "mode": 0o600}),
        ("srv/setuid", {"data": b"setuid", "mode": 0o6755}),
        ("srv/attributes", {"data": b"attributes", "mode": 0o755, "pax_headers": XATTRS}),
        ("srv/times", {"data": b"times", "pax_headers": {"mtime": "1234567890.123456789"}}),
        ("srv/old", {"data": b"from before 1970", "mtime": -86_400}),
        ("srv/name-" + "x" * 200, {"data": b"long name"}),
        ("srv/\u00fcml\u00e4ut", {"data": b"not ASCII"}),
        ("srv/hard", {"type": tarfile.LNKTYPE, "linkname": "srv/owned"}),
        ("srv/dangling", {"type": link, "linkname": "/nowhere/" + "y" * 150}),
        ("srv/pipe", {"type": tarfile.FIFOTYPE, "mode": 0o622}),
        ("srv/empty", {}),
        ("gone", {"data": b"removed by the second layer"}),
        ("replaced", folder),
        ("replaced/inner", {"data": b"goes with it"}),
        ("hidden", folder),
        ("hidden/old", {"data": b"hidden by an opaque directory"}),
    ]
    second = [
        (".wh.gone", {}),
        ("replaced", {"data": b"a file now"}),
        ("hidden", folder),
        ("hidden/.wh..wh..opq", {}),
        ("hidden/new", {"data": b"the only one"}),
        ("srv", {**folder, "mode": 0o700, "uid": 1001}),
        ("srv/setuid", {"data": b"anew, without the bit", "mode": 0o755}),
        ("implied/deep/file", {"data": b"in directories that nobody described"}),
    ]
    paths = [directory / "first.tar", directory / "second.tar"]
    for path, entries in zip(paths, (first, second), strict=True):
        write_tar(path, entries)
    return paths


def by_umoci(directory: Path, layers: list[Path]) -> str:
    """Make an image with umoci; return where skopeo finds it."""
    layout = directory / "umoci"
    run("umoci", "init", "--layout", str(layout))
    run("umoci", "new", "--image", f"{layout}:v1")
    for layer in layers:
        run("umoci", "raw", "add-layer", "--image", f"{layout}:v1", str(layer))
    run("umoci", "config", "--image", f"{layout}:v1", "--config.cmd", "/bin/sh", "--config.user", "0")
    return f"oci:{layout}:v1"


def by_buildah(directory: Path, host: str, kind: str, base: str) -> str:
    """Make an image with buildah on top of one in the registry and push it; return its reference."""
    place = directory / "buildah"
    buildah = (
        "buildah",
        "--root",
        str(place / "root"),
        "--runroot",
        str(place / "run"),
        "--storage-driver",
        "vfs",
    )
    added = directory / "added"
    added.mkdir(exist_ok=True)
    (added / "config").write_text("added by buildah\n")
    os.utime(added / "config", ns=(TIME * 10**9, TIME * 10**9 + 987_654_321))
    container = run(*buildah, "from", "--tls-verify=false", f"docker://{base}").strip()
    run(*buildah, "copy", container, str(added), "/etc/app")
    run(*buildah, "config", "--env", "MADE_BY=buildah", container)
    run(
        *buildah,
        "commit",
        "--format",
        kind,
        "--tls-verify=false",
        container,
        f"docker://{host}/buildah:{kind}",
    )
    run(*buildah, "rm", container)
    return f"{host}/buildah:{kind}"


def push_all(directory: Path, host: str) -> list[str]:
    """Push one image in all forms by all tools; return the references."""
    source = by_umoci(directory, write_layers(directory))
    references = []
    for kind, form in (("oci", "oci"), ("docker", "v2s2")):
        reference = f"{host}/umoci:{kind}"
        run(
            "skopeo",
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            "--format",
            form,
            source,
            f"docker://{reference}",
        )
        references.append(reference)
    archive = directory / "skopeo.tar"
    run("skopeo", "--insecure-policy", "copy", source, f"docker-archive:{archive}:app:v1")
    reference = f"{host}/skopeo:docker"
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--dest-tls-verify=false",
        f"docker-archive:{archive}",
        f"docker://{reference}",
    )
    references.append(reference)
    references += [by_buildah(directory, host, kind, f"{host}/umoci:{kind}") for kind in ("oci", "docker")]
    return references


def tree(top: Path) -> dict[str, Any]:
    """Return path -> all that can be seen of it."""
    found: dict[str, Any] = {}
    names: dict[int, list[str]] = {}
    for directory, inner, files in os.walk(top):
        for name in (*inner, *files):
            path = Path(directory) / name
            info = path.lstat()
            content: Any = info.st_rdev
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                names.setdefault(info.st_ino, []).append(str(path.relative_to(top)))
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if "overlay" not in key
            }
            relative = str(path.relative_to(top))
            time_ns = 0 if relative.startswith("implied") and path.is_dir() else info.st_mtime_ns
            found[relative] = (oct(info.st_mode), info.st_uid, info.st_gid, time_ns, content, attributes)
    found["names of one file"] = sorted(sorted(each) for each in names.values() if len(each) > 1)
    return found


@contextlib.contextmanager
def overlay(lowers: tuple[str, ...], directory: Path) -> Iterator[Path]:
    """Give the tree that a container of these layers would see."""
    empty = directory / "empty"
    empty.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        links = []  # short: fsconfig(2) takes 255 bytes
        for lower in (*lowers, str(empty)):
            fd = os.open(lower, os.O_PATH)
            stack.callback(os.close, fd)
            links.append(f"/proc/self/fd/{fd}")
        fd = mount.new_mount("overlay", "overlay", (f"lowerdir={':'.join(links)}",))
        stack.callback(os.close, fd)
        yield Path(f"/proc/self/fd/{fd}")


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return what is not the same."""
    return [
        f"  {path}: ours {ours.get(path)}, theirs {theirs.get(path)}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]


def compare(store: ImageStore, image: Image, reference: str, directory: Path) -> list[str]:
    """Compare an image here with what umoci unpacks of it."""
    layout, bundle = directory / "compared", directory / "bundle"
    for path in (layout, bundle):
        shutil.rmtree(path, ignore_errors=True)
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--src-tls-verify=false",
        f"docker://{reference}",
        f"oci:{layout}:v1",
    )
    run("umoci", "unpack", "--image", f"{layout}:v1", str(bundle))
    with overlay(store.layers(image), directory) as root:
        found = tree(root)
    wrong = differences(found, tree(bundle / "rootfs"))
    print(
        f"{reference.partition('/')[2]:<16} {len(found) - 1} files, {len(wrong)} differ from what umoci unpacks"
    )
    return wrong


async def save(store: ImageStore, image: Image, reference: str, directory: Path) -> list[str]:
    """Have others read what we save; return what is wrong."""
    saved = directory / "saved.tar"
    await store.save([reference], str(saved))  # by one name: skopeo wants one image
    place = directory / "podman"
    podman = (
        "podman",
        "--root",
        str(place / "root"),
        "--runroot",
        str(place / "run"),
        "--storage-driver",
        "vfs",
    )
    run(*podman, "load", "-i", str(saved))
    ids = run(*podman, "images", "--no-trunc", "--quiet").split()
    wrong = [] if image.id in ids else [f"podman loaded {ids} instead of {image.id}"]
    run(*podman, "rmi", "--all", "--force")
    for source in ("oci-archive", "docker-archive"):
        layout = directory / f"read-{source}"
        shutil.rmtree(layout, ignore_errors=True)
        run("skopeo", "--insecure-policy", "copy", f"{source}:{saved}", f"oci:{layout}:v1")
        bundle = directory / f"bundle-{source}"
        shutil.rmtree(bundle, ignore_errors=True)
        run("umoci", "unpack", "--image", f"{layout}:v1", str(bundle))
        with overlay(store.layers(image), directory) as root:
            wrong += differences(tree(root), tree(bundle / "rootfs"))
    print(
        f"{'saved':<16} read by podman, and by skopeo and umoci as OCI and as docker archive; {len(wrong)} differ"
    )
    return wrong


async def exchange(directory: Path, references: list[str]) -> list[str]:
    """Pull, compare, save and load all."""
    wrong: list[str] = []
    store = ImageStore(str(directory / "images"), Settings(config_paths=()))
    await store.start()
    try:
        for reference in references:
            image = await store.pull(reference, None)
            wrong += await asyncio.to_thread(compare, store, image, reference, directory)
            wrong += await save(store, image, reference, directory)
        wrong += [f"{each.images}: {each.problems}" async for each in store.verify([]) if each.problems]
    finally:
        await store.close()
    return wrong


def main() -> int:
    run("ip", "link", "set", "lo", "up")
    with contextlib.ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="cri-shim-test-", dir="/var/tmp"))
        )
        registry = stack.enter_context(made.registry(directory))
        references = push_all(directory, registry.host)
        wrong = asyncio.run(exchange(directory, references))
        runtime = stack.enter_context(daemons.ours(directory))
        for reference in references:
            pods = bench_pods.Runtime(f"unix://{runtime.path}", reference)
            try:
                pods.cycle(1)
                print(f"{reference.partition('/')[2]:<16} runs")
            finally:
                pods.remove_all()
    print("\n".join(wrong) or "all is equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
