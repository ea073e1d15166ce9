"""A root file system whose Python is poisoned: whatever of ours looks there for a module runs it, as root."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.hostile.conftest import DIRECTORY, Den, start
from tests.integration.streaming.clients import spdy_client

pytestmark = pytest.mark.root

POISON = b"""\
import os
fd = os.open("/poisoned", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
os.write(fd, (__name__ + " " + __file__ + "\\n").encode())
os.close(fd)
"""
MODULES = (
    *("sitecustomize", "usercustomize", "site", "os", "codecs", "io", "abc", "re", "json", "pwd", "grp"),
    *("signal", "subprocess", "socket", "select", "struct", "traceback", "linecache", "tokenize", "locale"),
    *("warnings", "logging", "threading", "random", "resource", "stat", "stringprep", "ctypes", "string"),
)
PACKAGES = ("encodings", "shim", "shim/kernel", "shim/runtime", "json", "ctypes", "collections", "importlib")
CODECS = ("idna", "ascii", "latin_1", "utf_8", "utf_8_sig", "aliases", "punycode", "cp437", "undefined")


def directories() -> list[str]:
    """Return everywhere that an interpreter of ours looks for modules, or any other might."""
    paths = [path for path in sys.path if path.startswith("/")]
    paths += [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib")]
    paths += [os.getcwd(), "/", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/local/lib/python3.11"]
    return sorted(dict.fromkeys(os.path.realpath(path) for path in paths))


@pytest.fixture(scope="module")
def image(den: Den) -> str:
    entries: dict[str, tuple[dict[str, Any], bytes]] = {}
    for directory in directories():
        below = [f"{name}.py" for name in MODULES]
        below += [f"{package}/__init__.py" for package in PACKAGES]
        below += [f"encodings/{name}.py" for name in CODECS]
        for path in below:
            whole = os.path.normpath(f"{directory}/{path}")[1:]
            for depth in range(1, len(whole.split("/"))):
                entries.setdefault("/".join(whole.split("/")[:depth]), (DIRECTORY, b""))
            entries[whole] = ({"mode": 0o644}, POISON)
    entries["poisoned"] = ({"mode": 0o666}, b"")
    for name in ("preload.so", "gconv/UTF-16.so"):  # no library: a loader that reads it complains
        entries[f"lib/{name}"] = ({"mode": 0o755}, b"poison")
    entries["etc/ld.so.preload"] = ({"mode": 0o644}, b"/lib/preload.so\n")
    env = ["PATH=/bin", "LD_PRELOAD=/lib/preload.so", "PYTHONPATH=/", "PYTHONSTARTUP=/os.py"]
    env += ["GCONV_PATH=/lib/gconv", "PYTHONHOME=/", "LOCPATH=/", "NLSPATH=/%N"]
    return den.image("poison", *((name, *entry) for name, entry in sorted(entries.items())), Env=env)


def test_none_of_ours_runs_the_images_python(den: Den, daemon: Any, image: str) -> None:
    pod = den.shared_pod()
    config = den.config("sh", "-c", "nc -l -p 8080 -e echo hello; exec sleep 1000", image=image, pid=cri.POD)
    id_ = daemon.run(pod, config=config)
    config = den.config("sleep", "1000", image=image, pid=cri.POD)
    config.linux.security_context.run_as_username = "app"
    config.tty = config.stdin = True
    by_name = daemon.run(pod, config=config)
    assert daemon.exec(id_, "echo", "in") == "in\n"
    assert daemon.exec(by_name, "id", "-un") == "app\n"
    for config in failing(den, image):
        _, error = start(daemon, pod, config)
        assert error is not None
    with pytest.raises(grpc.RpcError):
        daemon.exec(id_, "/no/such/program-\u00e9")
    with pytest.raises(grpc.RpcError):
        daemon.exec(id_, "sleep", "1000", timeout=1)
    assert asyncio.run(forwarded(den, pod[0])) == "hello"
    assert "executable file not found" in asyncio.run(told(den, id_))
    daemon.restart()
    assert daemon.exec(by_name, "id", "-un") == "app\n"
    for each in (id_, by_name):
        assert daemon.exec(each, "cat", "/poisoned") == "", "it was run in the container"
    assert not Path("/poisoned").exists(), "it was run on the node"


def failing(den: Den, image: str) -> list[cri.ContainerConfig]:
    """Return what cannot be started, so that an error is made and told from inside."""
    missing = den.config("not-there-\u00e9", image=image)
    denied = den.config("/etc/passwd", image=image)
    nowhere = den.config("true", image=image)
    nowhere.working_dir = "/etc/passwd"
    masked = den.config("true", image=image)
    masked.mounts.add(container_path="/dev", host_path=str(den.daemon.scratch / "empty"))
    masked.linux.security_context.masked_paths.append("/etc/passwd")
    return [missing, denied, nowhere, masked]


async def forwarded(den: Den, pod: str) -> str:
    """Return what a port of the pod says."""
    request = cri.PortForwardRequest(pod_sandbox_id=pod, port=[8080])
    with den.inside():
        client = await spdy_client(den.daemon.runtime.PortForward(request).url, "portforward.k8s.io")
    await client.open(streamType="error", port="8080", requestID="0")
    data = await client.open(streamType="data", port="8080", requestID="0")
    text = (await data.read_until(b"\n")).decode()
    await client.close()
    return text.strip()


async def told(den: Den, id_: str) -> str:
    """Return how an exec with a terminal fails."""
    request = cri.ExecRequest(container_id=id_, cmd=["not-there"], stdout=True, tty=True)
    with den.inside():
        client = await spdy_client(den.daemon.runtime.Exec(request).url, "v4.channel.k8s.io")
    error, *_ = [await client.open(streamType=kind) for kind in ("error", "stdout", "resize")]
    text = (await error.read_all()).decode()
    await client.close()
    return text
