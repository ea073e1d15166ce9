"""A daemon that was started with odd values of everything: no process of a container has any of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from shim._proto import api_pb2 as cri
from tests.integration.hostile.conftest import Den, base_layer
from tests.integration.socket import conftest as socket_conftest

pytestmark = pytest.mark.root

VARIABLE = "CRI_SHIM_TEST_ODD"
RT_IGNORED, BLOCKED = (34, 40), (signal.SIGUSR1, signal.SIGUSR2, 36)
EXPECTED = {
    "fd": ["0", "1", "2"],
    "umask": [str(0o022)],
    "nice": ["0"],
    "policy": ["0"],
    "ioprio": ["0"],
    "personality": ["0"],
    "securebits": ["0"],
    "timerslack": ["50000"],
    "thp-disable": ["0"],
    "cpus": [str(len(os.sched_getaffinity(0)))],
    "oom_score_adj": ["0"],
    "nofile": ["1024"],
}


def be_odd() -> None:
    """Runs in: the daemon's process, before its program."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    os.nice(3)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("200")
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    for number in (signal.SIGUSR1, signal.SIGQUIT, signal.SIGPIPE, signal.SIGALRM, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    for number in RT_IGNORED:
        libc.signal(number, ctypes.c_void_p(1))
    libc.personality(ctypes.c_ulong(0x0040000))  # ADDR_NO_RANDOMIZE
    libc.prctl(28, ctypes.c_ulong(1 << 2), 0, 0, 0)  # PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP
    libc.prctl(29, ctypes.c_ulong(777_000), 0, 0, 0)  # PR_SET_TIMERSLACK
    libc.prctl(41, ctypes.c_ulong(1), 0, 0, 0)  # PR_SET_THP_DISABLE
    libc.syscall(251 if os.uname().machine == "x86_64" else 30, 1, 0, (2 << 13) | 7)  # ioprio_set
    for target in (77, 500):
        os.dup2(os.open("/etc/shadow", os.O_RDONLY), target)
        os.set_inheritable(target, True)


@pytest.fixture(scope="module")
def den() -> Iterator[Den]:
    """A daemon of its own: what is odd about it must not be in others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "leaked")
        patch.setattr(socket_conftest.subprocess, "Popen", odd_popen(socket_conftest.subprocess.Popen))
        manager = contextlib.ExitStack()
        daemon = manager.enter_context(socket_conftest.running(socket_conftest.scratch_directory()))
    with manager:
        it = Den.__new__(Den)
        it.daemon, it.layer, it.marker = daemon, base_layer(daemon), daemon.scratch / "marker"
        daemon.load("example.com/test/evil:1", {"Env": ["PATH=/bin"]}, it.layer)
        yield it


def odd_popen(popen: Any) -> Any:
    def start(command: list[str], **options: Any) -> Any:
        odd = "serve" in command
        return popen(command, **options, **({"preexec_fn": be_odd, "close_fds": False} if odd else {}))

    return start


def check(lines: list[str], env: set[str]) -> None:
    found: dict[str, list[str]] = {}
    for line in lines:
        word, _, value = line.strip().partition(" ")
        found.setdefault(word, []).append(value)
    assert set(found.pop("env")) == env
    assert found == EXPECTED  # neither ``blocked`` nor ``ignored`` is among them


def test_the_daemon_is_odd(den: Den, daemon: Any) -> None:
    """Else the others would show nothing."""
    pid = daemon.process.pid
    assert os.sched_getaffinity(pid) == {min(os.sched_getaffinity(0))}
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert {"77", "500"} <= set(os.listdir(f"/proc/{pid}/fd"))
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert VARIABLE.encode() in file.read()


@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize("userns", [False, True])
def test_nothing_is_inherited(den: Den, daemon: Any, user: int, *, userns: bool) -> None:
    config = daemon.pod_config()
    options = config.linux.security_context.namespace_options
    if userns:
        if not den.has_user_namespaces():
            pytest.skip("memory file systems take no id map before Linux 6.3")
        ids = [cri.IDMapping(host_id=200_000, container_id=0, length=65_536)]
        options.userns_options.CopyFrom(cri.UserNamespace(mode=cri.POD, uids=ids, gids=ids))
    pod = daemon.run_pod(config)
    asked = den.config("sh", "-c", "sleep 1000 & exec evil inherited")
    asked.linux.security_context.namespace_options.CopyFrom(options)
    asked.linux.security_context.run_as_user.value = user
    asked.command[:] = ["evil", "inherited"]
    asked.envs.add(key="GIVEN", value=b"yes")
    home = "/root" if not user else "/home/app"
    env = {"PATH=/bin", f"HOSTNAME={config.hostname}", "GIVEN=yes", f"HOME={home}"}
    id_ = daemon.run(pod, config=asked)
    daemon.until(lambda: len(den.said(id_, "env")) >= len(env))
    check(daemon.output(id_), env)
    asked.command[:] = ["sleep", "1000"]
    asked.metadata.attempt += 100
    id_ = daemon.run(pod, config=asked)
    check(daemon.exec(id_, "evil", "inherited").splitlines(), env)
