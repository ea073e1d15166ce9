"""Labels of SELinux, on a node made of files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model.security import SELinuxOption
from shim.services.confinement import selinux
from shim.services.confinement.selinux import Label, Labels

PROCESS = Label("system_u", "system_r", "container_t", "s0")
FILE = Label("system_u", "object_r", "container_file_t", "s0")
POLICY = Labels(PROCESS, FILE)
CONTEXTS = """# comment
process = "system_u:system_r:container_t:s0"
content = "system_u:object_r:virt_var_lib_t:s0"
file = "system_u:object_r:container_file_t:s0"
ro_file = "system_u:object_r:container_ro_file_t:s0"
"""


def node(root: Path, contexts: str = CONTEXTS, directory: str = "mcs") -> str:
    for path, text in (
        (f"{selinux.FILESYSTEM}/enforce", "1"),
        (f"{selinux.FILESYSTEM}/context", ""),
        (selinux.CONFIG, f"# what\nSELINUX=enforcing\nSELINUXTYPE={directory}\n"),
        (f"etc/selinux/{directory}/{selinux.CONTEXTS}", contexts),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return str(root)


def test_the_policy_says_what_containers_have(tmp_path: Path) -> None:
    assert selinux.policy("auto", node(tmp_path)) == POLICY
    assert selinux.policy("on", str(tmp_path)) == POLICY
    assert selinux.policy("off", str(tmp_path)) is None


def test_a_node_without_selinux_has_none(tmp_path: Path) -> None:
    assert selinux.policy("auto", str(tmp_path)) is None
    with pytest.raises(FailedPrecondition, match=r"selinux\.enabled"):
        selinux.policy("on", str(tmp_path))


@pytest.mark.parametrize("contexts", ["", "process = ", 'process = "x"\nfile = "y"', 'file = "a:b:c:d"'])
def test_a_policy_without_containers_is_none(tmp_path: Path, contexts: str) -> None:
    root = node(tmp_path, contexts)
    assert selinux.policy("auto", root) is None
    with pytest.raises(FailedPrecondition, match="lxc_contexts"):
        selinux.policy("on", root)


@pytest.mark.parametrize(
    ("options", "process", "mount"),
    [
        (None, "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"),
        (
            SELinuxOption(level="s0:c7,c8"),
            "system_u:system_r:container_t:s0:c7,c8",
            "system_u:object_r:container_file_t:s0:c7,c8",
        ),
        (
            SELinuxOption("staff_u", "staff_r", "other_t", "s0"),
            "staff_u:staff_r:other_t:s0",
            "staff_u:object_r:container_file_t:s0",
        ),
        (
            SELinuxOption(type="other_t"),
            "system_u:system_r:other_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2",
        ),
    ],
)
def test_a_pod_gets_a_level_and_what_it_asks_for(
    options: SELinuxOption | None, process: str, mount: str
) -> None:
    labels = selinux.plan(POLICY, options, "s0:c1,c2")
    assert (str(labels.process), str(labels.mount)) == (process, mount)


def test_a_container_is_as_its_pod_but_for_what_it_asks_for() -> None:
    pod = selinux.plan(POLICY, None, "s0:c1,c2")
    assert selinux.plan(pod, None) == pod
    assert selinux.plan(pod, SELinuxOption()) == pod
    own = selinux.plan(pod, SELinuxOption(type="other_t"))
    assert (own.process.type, own.process.level, own.mount) == ("other_t", "s0:c1,c2", pod.mount)


def test_a_privileged_process_is_not_confined_but_its_mounts_are_its_own() -> None:
    pod = selinux.plan(POLICY, None, "s0:c1,c2")
    labels = selinux.plan(pod, None, privileged=True)
    assert str(labels.process) == "system_u:system_r:spc_t:s0"
    assert labels.mount == pod.mount
    asked = selinux.plan(pod, SELinuxOption(type="other_t", level="s0:c3,c4"), privileged=True)
    assert str(asked.process) == "system_u:system_r:other_t:s0:c3,c4"


def test_each_pod_gets_categories_of_its_own() -> None:
    used: set[str] = set()
    for _ in range(50):
        level = selinux.free_level(used)
        match = re.fullmatch(r"s0:c(\d+),c(\d+)", level)
        assert match is not None
        assert int(match[1]) < int(match[2]) < 1024
        assert level not in used
        used.add(level)
        selinux.check(SELinuxOption(level=level))


@pytest.mark.parametrize(
    "level", ["s0", "s0:c1", "s0:c1,c2", "s0:c0.c1023", "s0-s0:c0.c1023", "s0:c1.c3,c5", "s15:c1023"]
)
def test_levels(level: str) -> None:
    selinux.check(SELinuxOption(level=level))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"level": "s0,c4,c5"}, "s0,c4,c5"),
        ({"level": "c1"}, "level"),
        ({"level": "s0:"}, "level"),
        ({"level": "s0:c1,"}, "level"),
        ({"level": "s0:c12345"}, "level"),
        ({"level": "s0\n"}, "level"),
        ({"user": "a:b"}, "user"),
        ({"role": "a b"}, "role"),
        ({"type": "a\0"}, "type"),
        ({"type": "x" * 300}, "type"),
    ],
)
def test_what_is_no_label_is_refused_everywhere(options: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidArgument, match="selinux_options") as caught:
        selinux.check(SELinuxOption(**options))
    assert word in str(caught.value)


def test_a_label_is_asked_of_the_kernel(tmp_path: Path) -> None:
    root = node(tmp_path)
    selinux.verify(PROCESS, root)
    assert (tmp_path / selinux.FILESYSTEM / "context").read_bytes() == str(PROCESS).encode() + b"\0"


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "//", "/var/lib/../lib", "/home"])
def test_what_the_node_needs_is_not_relabelled(path: str) -> None:
    with pytest.raises(InvalidArgument, match="relabelled"):
        selinux.relabel(path, str(FILE))


def test_a_link_to_what_the_node_needs_is_not_either(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(InvalidArgument, match="relabelled"):
        selinux.relabel(str(tmp_path / "link"), str(FILE))


@pytest.mark.skipif(os.geteuid() != 0, reason="writes security attributes")
def test_a_tree_is_relabelled_and_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep/file").touch()
    outside.touch()
    (inside / "link").symlink_to(outside)
    try:
        selinux.relabel(str(inside), str(FILE))
        found = os.getxattr(inside / "deep/file", "security.selinux")
    except OSError:
        pytest.skip("this file system has no security attributes")
    assert found == str(FILE).encode() + b"\0"
    with pytest.raises(OSError, match="No data"):
        os.getxattr(outside, "security.selinux")


@pytest.mark.skipif(os.geteuid() != 0, reason="writes security attributes")
def test_layers_are_labelled_once_and_only_where_selinux_is(tmp_path: Path) -> None:
    images = tmp_path / "images"
    selinux.label_layers(str(images), "auto", str(tmp_path))
    assert not images.exists()
    root = node(tmp_path)
    (images / "layers/one").mkdir(parents=True)
    selinux.label_layers(str(images), "off", root)
    assert os.listxattr(images) == []
    try:
        selinux.label_layers(str(images), "auto", root)
        labels = [os.getxattr(path, "security.selinux") for path in (images, images / "layers/one")]
    except OSError:
        pytest.skip("this file system has no security attributes")
    assert labels == [b"system_u:object_r:container_ro_file_t:s0\0"] * 2
    os.setxattr(images / "layers/one", "security.selinux", b"a:b:other_t\0")
    selinux.label_layers(str(images), "auto", root)
    assert os.getxattr(images / "layers/one", "security.selinux") == b"a:b:other_t\0"


@pytest.mark.skipif(os.geteuid() != 0, reason="writes security attributes")
def test_a_policy_that_names_no_label_for_layers_leaves_them(tmp_path: Path) -> None:
    root = node(tmp_path, CONTEXTS.replace("ro_file =", "other ="))
    (tmp_path / "images").mkdir()
    selinux.label_layers(str(tmp_path / "images"), "auto", root)
    assert os.listxattr(tmp_path / "images") == []
