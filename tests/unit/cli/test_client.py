from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from shim.cli import client
from shim.errors import Unavailable


def test_a_daemon_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{path}.new")

    def appear() -> None:
        time.sleep(0.1)
        server.start()
        Path(f"{path}.new").rename(path)

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(appear)
        with client.connect(str(path)) as connected:
            assert connected.runtime.Version
        coming.result()
    server.stop(None).wait()


def test_a_daemon_that_listens_and_does_not_answer_is_told_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(client, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        with pytest.raises(Unavailable, match="has not answered in 0 s"), client.connect(str(path)):
            pass
    with pytest.raises(Unavailable, match="start one with 'cri-shim serve'"), client.connect(str(path)):
        pass
