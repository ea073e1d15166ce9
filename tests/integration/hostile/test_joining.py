"""Processes of ours that enter a container, or stand in it, under attack from inside."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.kernel import mount
from tests.integration.hostile.conftest import Den

pytestmark = pytest.mark.root

EXECS = 12
GAINED = ("root", "cwd", "descriptor", "stronger", "memory")


def tracer(den: Den, pid: int, *words: str) -> cri.ContainerConfig:
    """Return what ``kubectl debug`` gives: SYS_PTRACE, and no seccomp profile in the way."""
    config = den.config(*words, pid=pid)
    config.linux.security_context.capabilities.add_capabilities.append("SYS_PTRACE")
    config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.Unconfined
    return config


def capabilities_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("CapPrm"))


def test_the_init_of_a_pod_has_nothing_to_be_taken(den: Den, daemon: Any) -> None:
    pod = den.shared_pod()
    config = tracer(den, cri.POD, "sleep", "1000")
    config.linux.security_context.apparmor.profile_type = cri.SecurityProfile.Unconfined
    waiting = daemon.run(pod, config=config)
    mine = capabilities_of(daemon.pid(waiting))
    said = daemon.exec(waiting, "evil", "look", "1", str(den.marker), mine).splitlines()
    assert said == ["looked 1"]
    assert daemon.exec(waiting, "cat", "/proc/1/environ") == ""
    assert daemon.exec(waiting, "sh", "-c", "cat /proc/1/maps | busybox grep -c heap; true") == "0\n"
    assert daemon.exec(waiting, "sh", "-c", "ls -A /proc/1/root/ /proc/1/cwd/ /proc/1/fd/") == (
        "/proc/1/cwd/:\n\n/proc/1/fd/:\n\n/proc/1/root/:\n"
    )
    daemon.exec(waiting, "sh", "-c", "kill -KILL 1; kill -STOP 1; kill -TERM 1; true")
    assert "init" in daemon.exec(waiting, "cat", "/proc/1/comm")
    assert daemon.exec(waiting, "echo", "alive") == "alive\n"


def watched(den: Den, pod: Any, pid: int) -> str:
    """Return a container that attacks whatever appears, in the pod's namespace or its own."""
    daemon = den.daemon
    config = tracer(den, pid, "sh", "-c", "m=$(busybox awk '/CapPrm/{print $2}' /proc/self/status); "
                    f"exec evil watch {den.marker} $m")  # fmt: skip
    id_ = daemon.run(pod, config=config)
    den.until_said(id_, "watching")
    return id_


def gains(den: Den, id_: str) -> list[str]:
    return [line for line in den.daemon.output(id_) if line.split()[0] in GAINED]


@pytest.mark.parametrize("shared", [False, True])
def test_a_tracer_gains_nothing_from_an_exec_that_joins(den: Den, daemon: Any, *, shared: bool) -> None:
    """The class of CVE-2016-9962, with SYS_PTRACE, which no process can refuse."""
    mode = cri.POD if shared else cri.CONTAINER
    pod = den.shared_pod() if shared else daemon.run_pod()
    attacker = watched(den, pod, mode)
    target = daemon.run(pod, config=den.config("sleep", "1000", pid=cri.POD)) if shared else attacker
    for _ in range(EXECS):
        with contextlib.suppress(grpc.RpcError):
            daemon.exec(target, "true", timeout=5)
    assert gains(den, attacker) == []


@pytest.mark.skipif(
    not mount.proc_takes_namespace() and not os.path.exists("/sys/kernel/security/apparmor/profiles"),
    reason="this kernel mounts /proc only from inside a PID namespace",
)
def test_a_tracer_gains_nothing_from_a_container_that_starts(den: Den, daemon: Any) -> None:
    pod = den.shared_pod()
    attacker = watched(den, pod, cri.POD)
    for _ in range(EXECS // 4):
        with contextlib.suppress(grpc.RpcError):
            daemon.run(pod, config=den.config("true", pid=cri.POD))
    assert gains(den, attacker) == []


@pytest.mark.parametrize("user", ["", "app"])
def test_what_is_kept_out_of_sight_is_as_ever(den: Den, daemon: Any, user: str) -> None:
    """Cgroups, identity, filter and terminal of programs in a pod where somebody has SYS_PTRACE."""
    pod = den.shared_pod()
    daemon.run(pod, config=tracer(den, cri.POD, "sleep", "1000"))
    seen = []
    for each in (pod, den.shared_pod()):
        config = den.config("sleep", "1000", pid=cri.POD)
        security = config.linux.security_context
        security.run_as_username = user
        security.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
        config.tty = config.stdin = True
        id_ = daemon.run(each, config=config)
        script = "cat /proc/self/status /proc/self/limits; evil inherited; cat /proc/self/cgroup; echo $PWD"
        status = Path(f"/proc/{daemon.pid(id_)}/status").read_text()
        cgroups = Path(f"/proc/{daemon.pid(id_)}/cgroup").read_text().count(id_)
        seen.append((plain(daemon.exec(id_, "sh", "-c", script)), plain(status), cgroups))

    assert seen[0] == seen[1]


def plain(text: str) -> list[str]:
    """Return what is the same for any two processes."""
    differ = ("Pid", "PPid", "Tgid", "Ngid", "NSpid", "NStgid", "NSpgid", "NSsid", "Vm", "Rss", "Hugetlb")
    differ += ("voluntary", "nonvoluntary", "FDSize", "State", "SigQ", "env HOSTNAME")
    own = ("/cri-shim", "0::/exec-")  # cgroups
    lines = [line for line in text.splitlines() if not line.startswith(differ)]
    return [line for line in lines if not any(part in line for part in own)]


@pytest.mark.parametrize("numbers", [(signal.SIGKILL,), (signal.SIGSTOP,), (signal.SIGTERM, signal.SIGINT)])
def test_signals_at_what_joins_cost_that_exec_alone(den: Den, daemon: Any, numbers: tuple[int, ...]) -> None:
    pod = daemon.run_pod()
    id_ = den.run(pod, "evil", "signals", *(str(int(number)) for number in numbers))
    den.until_said(id_, "signalling")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:

        def run(_: int) -> None:
            with contextlib.suppress(grpc.RpcError):
                daemon.exec(id_, "sh", "-c", "true", timeout=1)

        list(pool.map(run, range(8)))
    den.alive()
    assert daemon.status(id_).state == cri.CONTAINER_RUNNING
    daemon.stop(id_)
    assert daemon.status(id_).exit_code == 137
