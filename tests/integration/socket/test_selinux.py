"""SELinux as a kubelet asks for it: forms everywhere, effects where the node has it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shim._proto import api_pb2 as cri
from shim.services.confinement import selinux

pytestmark = pytest.mark.root

POLICY = selinux.policy("auto")
ENFORCE = Path("/sys/fs/selinux/enforce")
needs = pytest.mark.skipif(POLICY is None, reason="no SELinux here, or no policy for containers")
Code = grpc.StatusCode


def container(daemon: Any, **options: str) -> cri.ContainerConfig:
    config = daemon.container_config("sleep", "1000")
    if options:
        config.linux.security_context.selinux_options.CopyFrom(cri.SELinuxOption(**options))
    return config


BAD = [
    {"level": "s0,c4,c5"},
    {"user": "a b"},
    {"role": "a:b"},
    {"type": "a/b"},
]


@pytest.mark.parametrize("options", BAD)
def test_what_is_no_label_is_refused_everywhere(daemon: Any, options: dict[str, str]) -> None:
    pod = daemon.run_pod()
    with pytest.raises(grpc.RpcError) as caught:
        daemon.create(pod, container(daemon, **options))
    assert caught.value.code() is Code.INVALID_ARGUMENT
    config = daemon.pod_config()
    config.linux.security_context.selinux_options.CopyFrom(cri.SELinuxOption(**options))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.run_pod(config)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "selinux_options" in caught.value.details()


@pytest.mark.skipif(POLICY is not None, reason="this node has SELinux")
def test_a_node_without_selinux_runs_what_has_the_right_form(daemon: Any) -> None:
    config = container(daemon, user="system_u", role="system_r", type="svirt_lxc_net_t", level="s0:c4,c5")
    config.mounts.add(container_path="/v", host_path=str(daemon.scratch / "v"), selinux_relabel=True)
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert daemon.status(id_).state == cri.CONTAINER_RUNNING


def label(daemon: Any, id_: str) -> str:
    return str(daemon.exec(id_, "cat", "/proc/1/attr/current").strip("\0\n"))


@needs
def test_pods_are_kept_apart_and_containers_of_one_are_not(daemon: Any) -> None:
    first, second = daemon.run_pod(), daemon.run_pod()
    a, b, c = daemon.run(first), daemon.run(first), daemon.run(second)
    assert label(daemon, a) == label(daemon, b) != label(daemon, c)
    assert ":container_t:" in label(daemon, a)
    assert ":container_file_t:" in daemon.exec(a, "cat", "/proc/1/mountinfo")
    answer = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=a, verbose=True))
    assert json.loads(answer.info["info"])["runtimeSpec"]["process"]["selinuxLabel"] == label(daemon, a)


@needs
def test_what_is_asked_for(daemon: Any) -> None:
    id_ = daemon.run(daemon.run_pod(), config=container(daemon, level="s0:c4,c5"))
    assert label(daemon, id_).endswith(":s0:c4,c5")
    assert daemon.exec(id_, "cat", "/proc/self/attr/current").strip("\0\n") == label(daemon, id_)
    config = daemon.pod_config()
    config.linux.security_context.privileged = True
    privileged = container(daemon)
    privileged.linux.security_context.privileged = True
    assert ":spc_t:" in label(daemon, daemon.run(daemon.run_pod(config), config=privileged))


@needs
def test_a_label_that_the_policy_does_not_know_is_refused(daemon: Any) -> None:
    for options in ({"user": "no_such_u"}, {"role": "no_such_r"}, {"type": "no_such_t"}, {"level": "s9:c1"}):
        pod = daemon.run_pod()
        with pytest.raises(grpc.RpcError) as caught:
            daemon.create(pod, container(daemon, **options))
        assert caught.value.code() is Code.INVALID_ARGUMENT


@needs
def test_a_volume_is_relabelled_only_if_that_is_asked_for(daemon: Any) -> None:
    for asked in (True, False):
        directory = daemon.scratch / f"relabel-{asked}"
        directory.mkdir(exist_ok=True)
        config = container(daemon)
        config.mounts.add(container_path="/v", host_path=str(directory), selinux_relabel=asked)
        id_ = daemon.run(daemon.run_pod(), config=config)
        assert (b":container_file_t:" in os.getxattr(directory, "security.selinux")) == asked
        may = asked or ENFORCE.read_text() != "1"
        assert (told(daemon, id_, "ls -d /v")[0] == 0) == may


@pytest.fixture
def enforced() -> Iterator[None]:
    """The policy is enforced: a machine made for tests is told to, any other is left as it is."""
    if ENFORCE.read_text() == "1":
        yield
    elif "CRI_SHIM_VM" not in os.environ:
        pytest.skip("this node's SELinux is permissive")
    else:
        ENFORCE.write_text("1")
        try:
            yield
        finally:
            ENFORCE.write_text("0")


def told(daemon: Any, id_: str, *script: str) -> tuple[int, str]:
    answer = daemon.runtime.ExecSync(cri.ExecSyncRequest(container_id=id_, cmd=["sh", "-c", *script]))
    return answer.exit_code, (answer.stdout + answer.stderr).decode()


@needs
@pytest.mark.usefixtures("enforced")
@pytest.mark.parametrize("pid", [cri.CONTAINER, cri.POD])
def test_where_it_is_enforced_a_container_has_its_own_and_nothing_of_the_node(daemon: Any, pid: int) -> None:
    """It is root, and the modes of all files would let it: what is denied, is denied by the policy."""
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.pid = pid
    config.linux.security_context.privileged = True
    pod = daemon.run_pod(config)
    asked = container(daemon)
    asked.linux.security_context.namespace_options.pid = pid
    for name in ("own", "nodes"):
        (daemon.scratch / name).mkdir(exist_ok=True)
        (daemon.scratch / name / "file").write_text(name)
        asked.mounts.add(
            container_path=f"/{name}", host_path=str(daemon.scratch / name), selinux_relabel=name == "own"
        )
    id_ = daemon.run(pod, config=asked)
    assert ":container_t:" in daemon.exec(id_, "cat", "/proc/self/attr/current")
    script = "cat /own/file && echo 1 >/own/new && echo 2 >/new && echo 3 >>/etc/hosts"
    listed = "ls -l /dev /dev/mqueue /sys /sys/class /sys/firmware >/dev/null"
    assert told(daemon, id_, f"{script} && echo 4 >/dev/shm/new && {listed}") == (0, "own")
    for script in ("cat /nodes/file", "echo 1 >/nodes/new", "ls /nodes"):
        code, text = told(daemon, id_, script)
        assert (code != 0, "Permission denied" in text) == (True, True), (script, text)
    asked.linux.security_context.privileged = True
    asked.metadata.attempt += 1
    del asked.mounts[0]
    privileged = daemon.run(pod, config=asked)
    assert told(daemon, privileged, "cat /nodes/file") == (0, "nodes")


@needs
@pytest.mark.usefixtures("enforced")
@pytest.mark.parametrize("userns", [False, True])
def test_where_it_is_enforced_the_init_of_a_pod_is_one_of_its_containers(
    daemon: Any, *, userns: bool
) -> None:
    namespaces = cri.NamespaceOption(pid=cri.POD)
    if userns:
        if not daemon.runtime.Status(cri.StatusRequest()).runtime_handlers[0].features.user_namespaces:
            pytest.skip("memory file systems take no id map before Linux 6.3")
        ids = [cri.IDMapping(host_id=200_000, container_id=0, length=65_536)]
        namespaces.userns_options.CopyFrom(cri.UserNamespace(mode=cri.POD, uids=ids, gids=ids))
    config = daemon.pod_config()
    config.linux.security_context.namespace_options.CopyFrom(namespaces)
    asked = container(daemon)
    asked.linux.security_context.namespace_options.CopyFrom(namespaces)
    id_ = daemon.run(daemon.run_pod(config), config=asked)
    own = daemon.exec(id_, "cat", "/proc/self/attr/current")
    assert ":container_t:s0:c" in own
    assert label(daemon, id_) == own.strip("\0\n")
    assert "init" in daemon.exec(id_, "cat", "/proc/1/comm")
    (root,) = daemon.exec(id_, "cat", "/proc/1/mountinfo").splitlines()
    level = own.strip("\0\n").split(":", 3)[3]
    assert f',context="system_u:object_r:container_file_t:{level}",' in root
    orphan = daemon.exec(id_, "sh", "-c", "sleep 0.2 & echo $!").strip()
    daemon.until(lambda: told(daemon, id_, f"test -e /proc/{orphan}")[0] == 1)


@needs
@pytest.mark.usefixtures("enforced")
def test_where_it_is_enforced_a_pod_has_nothing_of_another(daemon: Any) -> None:
    directory = daemon.scratch / "of-the-first"
    directory.mkdir(exist_ok=True)
    (directory / "file").write_text("mine")
    ids = []
    for level, relabel in (("s0:c1,c2", True), ("s0:c1,c2", False), ("s0:c3,c4", False)):
        config = container(daemon, level=level)
        config.mounts.add(container_path="/v", host_path=str(directory), selinux_relabel=relabel)
        ids.append(daemon.run(daemon.run_pod(), config=config))
    assert [told(daemon, id_, "cat /v/file")[0] for id_ in ids] == [0, 0, 1]
    assert "Permission denied" in told(daemon, ids[2], "cat /v/file")[1]


@needs
@pytest.mark.usefixtures("enforced")
def test_where_it_is_enforced_output_and_terminals_are_as_ever(daemon: Any) -> None:
    config = daemon.container_config("sh", "-c", "echo out; echo err >&2; [ -t 1 ] && echo terminal; exit 3")
    for terminal in (False, True):
        config.tty = terminal
        config.metadata.attempt += 1
        config.log_path = f"main/{terminal}.log"
        id_ = daemon.run(daemon.run_pod(), config=config)
        assert daemon.wait(id_).exit_code == 3
        said = [line.strip() for line in daemon.output(id_)]
        assert sorted(said) == sorted(["out", "err", *(["terminal"] if terminal else [])])


@needs
@pytest.mark.usefixtures("enforced")
def test_where_it_is_enforced_volumes_of_images_are_the_containers(daemon: Any) -> None:
    entries = (("d", {"type": b"5", "mode": 0o755}, b""), ("d/f", {"mode": 0o644}, b"text\n"))
    busybox = (("bin/busybox", {"mode": 0o755}, Path("/bin/busybox").read_bytes()),)
    links = tuple(
        (f"bin/{name}", {"type": b"2", "linkname": "busybox"}, b"") for name in ("sh", "cat", "sleep")
    )
    layer = daemon.tar(*entries, *busybox, *links)
    image = daemon.load("example.com/test/declares:1", {"Env": ["PATH=/bin"], "Volumes": {"/d": {}}}, layer)
    config = container(daemon)
    config.image.image = image
    config.mounts.add(container_path="/i", image=cri.ImageSpec(image=image), readonly=True)
    id_ = daemon.run(daemon.run_pod(), config=config)
    assert told(daemon, id_, "cat /d/f /i/d/f && echo 1 >/d/new && echo 2 >>/d/f && /i/bin/cat /d/new") == (
        0,
        "text\ntext\n1\n",
    )
