"""What a container gets hold of when something of ours enters it: binaries, descriptors, sockets."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from tests.integration.hostile.conftest import Den, link, start
from tests.integration.streaming.clients import spdy_client, status

pytestmark = pytest.mark.root

SEALED = 0xF  # no write, no growing, no shrinking, no more seals
x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="loader.c is for x86-64")


def checked_rewrite(lines: list[str]) -> None:
    """Check what ``evil rewrite`` says: it had our binary, and could do nothing with it."""
    words = dict(line.split(" ", 1) for line in lines)
    assert "memfd:cri-shim python" in words["binary"], "the attack did not get as far as our binary"
    assert int(words["seals"]) & SEALED == SEALED
    assert "written" not in words


@x86_64
def test_the_binary_behind_proc_self_exe_cannot_be_written(den: Den, daemon: Any) -> None:
    """The class of CVE-2019-5736: a program whose interpreter is /proc/self/exe runs our binary."""
    pod = daemon.run_pod()
    by_start = den.run(pod, "/bin/prepared")
    checked_rewrite(den.all_said(by_start, "tried"))
    id_ = den.run(pod, "sleep", "1000")
    checked_rewrite(daemon.exec(id_, "/bin/prepared").splitlines())
    daemon.exec(id_, "sh", "-c", "cp /bin/prepared /tmp/x; rm /bin/sh; mv /tmp/x /bin/sh")
    checked_rewrite(daemon.exec(id_, "sh", "-c", "true").splitlines())
    checked_rewrite(daemon.exec(id_, "/proc/self/exe").splitlines())


def test_the_binary_of_a_pods_init_is_nobodys(den: Den, daemon: Any) -> None:
    pod = den.shared_pod()
    config = den.config("sh", "-c", "exec 3</proc/1/exe; exec evil rewrite 3", pid=cri.POD)
    config.linux.security_context.capabilities.add_capabilities.append("SYS_PTRACE")
    config.linux.security_context.apparmor.profile_type = cri.SecurityProfile.Unconfined
    id_ = daemon.run(pod, config=config)
    den.all_said(id_, "tried")
    assert "memfd:init" in den.said(id_, "binary")[0]
    assert not den.said(id_, "written")
    assert int(den.said(id_, "seals")[0]) & SEALED == SEALED


def test_no_working_directory_leads_out(den: Den, daemon: Any) -> None:
    """The class of CVE-2024-21626: the directory is one of our descriptors."""
    pod = daemon.run_pod()
    for number in range(3, 19):
        config = den.config("evil", "outside", str(den.marker))
        config.working_dir = (
            f"/proc/thread-self/fd/{number}/made" if number % 4 == 0 else f"/proc/self/fd/{number}"
        )
        assert_inside(den, *start(daemon, pod, config))
    for number in (5, 6):
        image = den.image(f"cwd{number}", ("way", link(f"/proc/self/fd/{number}"), b""), WorkingDir="/way")
        config = den.config("evil", "outside", str(den.marker), image=image)
        assert_inside(den, *start(daemon, pod, config))


def assert_inside(den: Den, id_: str, error: grpc.RpcError | None) -> None:
    if error is not None:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "working directory" in error.details()
        return
    den.all_said(id_, "cwd")
    assert den.said(id_, "cwd")[0].startswith("/")
    assert not den.said(id_, "escaped")


def test_no_working_directory_of_an_exec_leads_out(den: Den, daemon: Any) -> None:
    config = den.config("sleep", "1000")
    config.working_dir = "/tmp/cwd"
    id_ = daemon.run(daemon.run_pod(), config=config)
    daemon.exec(id_, "sh", "-c", "busybox rmdir /tmp/cwd")
    for number in range(3, 19):
        daemon_path = f"/proc/{daemon.pid(id_)}/root/tmp/cwd"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(daemon_path)
        os.symlink(f"/proc/self/fd/{number}", daemon_path)
        said = "cwd /"  # it may be refused, or be a directory of the container
        with contextlib.suppress(grpc.RpcError):
            said = daemon.exec(id_, "evil", "outside", str(den.marker))
        assert said.startswith("cwd /"), said


async def test_no_descriptor_but_the_streams_reaches_a_program(den: Den, daemon: Any) -> None:
    """With other pods beside it, whose pipes, terminals and namespaces we hold."""
    for tty in (False, True):
        pod = den.shared_pod()
        config = den.config("sleep", "1000", pid=cri.POD)
        config.tty = config.stdin = tty
        daemon.run(pod, config=config)
    pod = daemon.run_pod()
    for tty in (False, True):
        config = den.config("sh", "-c", "evil fds; exec sleep 1000")
        config.tty = config.stdin = tty
        id_ = daemon.run(pod, config=config)
        den.until_said(id_, "fd")
        daemon.until(lambda id_=id_: [line.strip() for line in den.said(id_, "fd")] == ["0", "1", "2"])
        assert daemon.exec(id_, "evil", "fds") == "fd 0\nfd 1\nfd 2\n"
        for with_tty in (False, True):
            request = cri.ExecRequest(container_id=id_, cmd=["evil", "fds"], stdout=True, tty=with_tty)
            said = await output_of(den, daemon.runtime.Exec(request).url, tty=with_tty)
            assert said.split() == ["fd", "0", "fd", "1", "fd", "2"]


async def output_of(den: Den, url: str, *, tty: bool) -> str:
    with den.inside():
        client = await spdy_client(url, "v4.channel.k8s.io")
    kinds = ("error", "stdout", "resize") if tty else ("error", "stdout")
    error, out = [await client.open(streamType=kind) for kind in kinds][:2]
    data = await out.read_all()
    told = await error.read_all()
    await client.close()
    assert status(told)["status"] == "Success", told
    return data.decode()


def test_no_release_agent_can_be_set(den: Den, daemon: Any) -> None:
    """The class of CVE-2022-0492: a cgroup's release agent is run by the kernel, as the host's root."""
    for unconfined in (False, True):
        config = den.config("evil", "agent")
        if unconfined:
            config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.Unconfined
        id_ = daemon.run(daemon.run_pod(), config=config)
        assert [line for line in den.all_said(id_, "tried") if not line.startswith("tried")] == []


def test_a_container_on_the_nodes_network_finds_none_of_our_sockets(den: Den, daemon: Any) -> None:
    """The class of CVE-2020-15257: sockets without a file belong to the network namespace alone."""
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.network = cri.NODE
    id_ = den.run(daemon.run_pod(config), "evil", "abstract")
    assert den.all_said(id_, "abstract") == ["abstract 0"]


def test_a_container_on_the_nodes_network_gets_nothing_of_the_streaming_server(den: Den, daemon: Any) -> None:
    other = den.run(daemon.run_pod(), "sleep", "1000")
    url = daemon.runtime.Exec(cri.ExecRequest(container_id=other, cmd=["true"], stdout=True)).url
    host, _, port = url.split("/")[2].partition(":")
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.network = cri.NODE
    paths = ("exec/x", "exec/", f"exec/{other}", f"attach/{other}", "debug/pprof", "metrics", "../exec/x")
    ask = "; ".join(f"printf 'POST /{path} HTTP/1.0\\r\\n\\r\\n' | nc {host} {port}" for path in paths)
    id_ = den.run(daemon.run_pod(config), "sh", "-c", ask)
    daemon.until(lambda: len(http_answers(daemon.output(id_))) == len(paths))
    answers = http_answers(daemon.output(id_))
    assert all(" 40" in line for line in answers)


def http_answers(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("HTTP/")]


def test_floods_of_exec_cost_the_daemon_little_memory(den: Den, daemon: Any) -> None:
    """The class of CVE-2022-31030: the output of ExecSync is kept in memory."""
    id_ = den.run(daemon.run_pod(), "sleep", "1000")
    pipes = "busybox yes 0123456789 | busybox head -c 100000000", "busybox yes x | busybox head -c 50000000"
    flood = f"{pipes[0]} & {pipes[1]} >&2; wait"
    before = peak_kib(daemon.process.pid)

    def run() -> int:
        request = cri.ExecSyncRequest(container_id=id_, cmd=["sh", "-c", flood])
        answer = daemon.runtime.ExecSync(request)
        assert answer.exit_code == 0
        return len(answer.stdout) + len(answer.stderr)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        sizes = [future.result() for future in [pool.submit(run) for _ in range(3)]]
    assert all(1 << 20 <= size <= 16 << 20 for size in sizes)
    assert peak_kib(daemon.process.pid) - before < 200 << 10, "450 MB were written"


def peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
