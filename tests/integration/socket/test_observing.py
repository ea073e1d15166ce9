"""Metrics as Prometheus itself reads them, and the live view."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.socket.conftest import Daemon, running, scratch_directory

pytestmark = pytest.mark.root
ADDRESS = "127.0.0.1:9494"
PROMETHEUS = "127.0.0.1:9495"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(scratch_directory(), f'--set=metrics.address="{ADDRESS}"') as it:
        yield it


@contextmanager
def prometheus(daemon: Daemon) -> Iterator[None]:
    """Debian's, in the network namespace of the daemon."""
    config = daemon.scratch / "prometheus.yml"
    job = {"job_name": "cri-shim", "scrape_interval": "1s", "scrape_timeout": "1s"}
    job["static_configs"] = [{"targets": [ADDRESS]}]  # type: ignore[assignment]
    config.write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML
    command = ["prometheus", f"--config.file={config}", f"--web.listen-address={PROMETHEUS}"]
    with (daemon.scratch / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{daemon.netns}",
                *command,
                f"--storage.tsdb.path={daemon.scratch}/tsdb",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


FETCH = """
import sys, urllib.request as request
print(request.build_opener(request.ProxyHandler({})).open(sys.argv[1]).read().decode())
"""


def query(daemon: Daemon, text: str) -> list[Any]:
    """Return what Prometheus has; nothing while it is starting, or after a scrape that took too long."""
    url = f"http://{PROMETHEUS}/api/v1/query?query={urllib.parse.quote(text)}"
    done = daemon.in_netns("python3", "-c", FETCH, url)
    return json.loads(done.stdout)["data"]["result"] if done.returncode == 0 else []


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus here")
def test_prometheus_reads_them(daemon: Daemon) -> None:
    with prometheus(daemon):
        pod = daemon.run_pod()
        daemon.run(pod)
        with pytest.raises(grpc.RpcError):
            daemon.runtime.StartContainer(cri.StartContainerRequest(container_id="nobody"))
        for wanted in (
            'cri_shim_containers{state="RUNNING"} == 1',
            'up{job="cri-shim"} == 1',
            'cri_shim_calls_total{method="StartContainer",code="NOT_FOUND"} == 1',
            "cri_shim_supervisor_up == 1",
            "process_resident_memory_bytes",
            *(
                f'cri_shim_stage_seconds_count{{method="RunPodSandbox",stage="{stage}"}} > 0'
                for stage in ("files", "namespaces", "network builtin")
            ),
        ):
            daemon.until(lambda wanted=wanted: query(daemon, wanted))


def test_top_shows_what_runs(daemon: Daemon) -> None:
    pod = daemon.run_pod()
    daemon.run(pod, "sh", "-c", "while :; do :; done")
    text = daemon.command("top", "--once")
    assert "1 pods, 1 containers" in text
    assert f"test/{pod[1].metadata.name}" in text
    assert "running" in text
