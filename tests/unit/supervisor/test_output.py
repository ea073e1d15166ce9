"""What a container writes, for its log and for who is attached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.supervisor import fdstore
from shim.supervisor.fanout import MAX_WAITING_BYTES
from shim.supervisor.loop import Loop
from shim.supervisor.output import Output
from shim.supervisor.protocol import LogConfig


@pytest.fixture
def pipes() -> Iterator[dict[str, int]]:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    fds = {"stdout_read": out_read, "stderr_read": err_read, "out": out_write, "err": err_write}
    yield fds
    fdstore.close_all(fds.values())


def attach(output: Output, name: str) -> socket.socket:
    ours, theirs = socket.socketpair()
    output.attach({name: theirs.detach()})
    return ours


def test_attached_clients_get_the_bytes_and_the_log_the_lines(tmp_path: Path, pipes: dict[str, int]) -> None:
    loop = Loop()
    output = Output(loop, LogConfig(str(tmp_path / "log")), pipes)
    with attach(output, "stdout") as out, attach(output, "stderr") as err:
        os.write(pipes["out"], b"half")
        os.write(pipes["err"], b"oops\n")
        loop.turn(1)
        output.drain()
        assert (out.recv(100), err.recv(100)) == (b"half", b"oops\n")
        os.close(pipes.pop("out"))
        output.drain()
        assert out.recv(100) == b""
        assert [line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()] == [
            "stderr F oops",
            "stdout P half",
        ]
        output.close()
        assert err.recv(100) == b""


def test_a_stream_that_has_ended_ends_at_once(tmp_path: Path, pipes: dict[str, int]) -> None:
    output = Output(Loop(), LogConfig(str(tmp_path / "log")), pipes)
    os.close(pipes.pop("err"))
    output.drain()
    with attach(output, "stderr") as err:
        assert err.recv(100) == b""
    output.close()


def test_who_is_cut_off_from_one_stream_is_so_from_both(tmp_path: Path, pipes: dict[str, int]) -> None:
    output = Output(Loop(), LogConfig(), pipes)
    (out, theirs_out), (err, theirs_err) = socket.socketpair(), socket.socketpair()
    with out, err:
        output.attach({"stdout": theirs_out.detach(), "stderr": theirs_err.detach()})
        for _ in range(2 * MAX_WAITING_BYTES // 65536):
            os.write(pipes["out"], b"x" * 65536)
            output.drain()
        assert err.recv(100) == b""
    output.close()


def test_a_flood_goes_on_in_pieces_while_a_client_is_behind(tmp_path: Path, pipes: dict[str, int]) -> None:
    loop = Loop()
    output = Output(loop, LogConfig(), pipes)
    os.set_blocking(pipes["out"], False)
    written = read = 0
    with attach(output, "stdout") as out:
        out.setblocking(False)
        while written < 3_000_000:
            try:
                written += os.write(pipes["out"], b"x" * 65536)
            except BlockingIOError:
                loop.turn(0.1)
        os.close(pipes.pop("out"))
        while not output.ended or read < written:
            loop.turn(0.001)
            try:
                read += len(out.recv(1 << 20))
            except BlockingIOError:
                continue
            os.set_blocking(pipes["err"], False)
            if read == written:
                os.close(pipes.pop("err"))
                output.drain()
    assert read == written
