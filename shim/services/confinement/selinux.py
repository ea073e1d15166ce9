"""SELinux: labels of a container's process and of what is mounted for it.

A label is ``user:role:type:level``. The node's policy says in a file which labels containers have
(``lxc_contexts``); a request may change parts of that. What keeps pods apart is the level: two categories
that no other pod has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, KernelError
from shim.kernel import files
from shim.model.security import SELinuxOption

FILESYSTEM: Final = "sys/fs/selinux"
CONFIG: Final = "etc/selinux/config"
CONTEXTS: Final = "contexts/lxc_contexts"

_PRIVILEGED_TYPE: Final = "spc_t"  # of the container policy: unconfined, and known by its name
_CATEGORIES: Final = 1024
_TRIES: Final = 10_000
_PART: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_CATEGORY: Final = r"c[0-9]{1,4}(\.c[0-9]{1,4})?"
_LEVEL: Final = re.compile(rf"s[0-9]{{1,2}}(-s[0-9]{{1,2}})?(:{_CATEGORY}(,{_CATEGORY})*)?")

# Relabelling one of these would take the node apart.
_NEVER_RELABELLED: Final = frozenset(
    (
        *("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc"),
        *("/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/lib64"),  # noqa: S108
        *("/usr/local", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/log", "/var/run"),
    )
)


@dataclass(frozen=True, slots=True)
class Label:
    """A label in its parts."""

    user: str
    role: str
    type: str
    level: str

    def __str__(self) -> str:
        return ":".join(part for part in (self.user, self.role, self.type, self.level) if part)


@dataclass(frozen=True, slots=True)
class Labels:
    """What one container, or pod, has: the label of its process, and that of its mounts."""

    process: Label
    mount: Label


def parse(text: str) -> Label:
    """Return the label of a text. Pure.

    Raises:
        InvalidArgument: it is none.
    """
    parts = text.split(":", 3)
    if len(parts) < 3:
        raise InvalidArgument(f"{text!r} is no SELinux label")
    return Label(parts[0], parts[1], parts[2], parts[3] if len(parts) > 3 else "")


def check(options: SELinuxOption | None) -> None:
    """Check the form of what a request says; also on a node without SELinux. Pure.

    Raises:
        InvalidArgument: names the field.
    """
    if options is None:
        return
    for field in ("user", "role", "type"):
        value = getattr(options, field)
        if value and not _PART.fullmatch(value):
            raise InvalidArgument(f"selinux_options.{field} {value[:64]!r} is no part of an SELinux label")
    if options.level and not _LEVEL.fullmatch(options.level):
        raise InvalidArgument(f"selinux_options.level {options.level[:64]!r} is not a level such as s0:c1,c2")


def policy(mode: str, root: str = "/") -> Labels | None:
    """Return the labels that the node's policy has for containers; None where SELinux is off. Blocking.

    Args:
        mode: ``auto``, where the kernel and the policy have what it takes; ``on``, or an error; ``off``.
        root: of the node.

    Raises:
        FailedPrecondition: it must be on, but is not.
    """
    if mode == "off":
        return None
    if not os.path.exists(os.path.join(root, FILESYSTEM, "enforce")):
        _refuse_if_on(mode, "SELinux is not in this kernel, or switched off")
        return None
    file, contexts = _contexts(root)
    try:
        return Labels(parse(contexts["process"]), parse(contexts["file"]))
    except (KeyError, InvalidArgument):
        _refuse_if_on(mode, f"the SELinux policy has no labels for containers in {file}")
        return None


def label_layers(directory: str, mode: str, root: str = "/") -> None:
    """Give the directory of layers the label of what containers may read and run. Blocking.

    The mount of a container's root has a label of its own, but where a program is mapped the kernel asks for
    that of the file below too. A new file has the type of its directory, so this is done once: the directory
    comes last.

    Args:
        directory: of all layers; made if it is missing.
        mode: as for policy().
        root: of the node.

    Raises:
        KernelError: it cannot be labelled.
    """
    if policy(mode, root) is None or not (label := _contexts(root)[1].get("ro_file")):
        return
    os.makedirs(directory, mode=0o700, exist_ok=True)
    with contextlib.suppress(OSError):
        if os.getxattr(directory, files.SELINUX).rstrip(b"\0") == label.encode():
            return
    for name in os.listdir(directory):
        relabel(os.path.join(directory, name), label)
    label_one(directory, label)


def plan(base: Labels, options: SELinuxOption | None, level: str = "", *, privileged: bool = False) -> Labels:
    """Return labels: those of ``base`` with what the request says. Pure.

    Args:
        base: the policy's for a pod, the pod's for a container.
        options: the request.
        level: in force where the request gives none; empty keeps that of ``base``.
        privileged: the process gets a type that the policy does not confine, unless the request gives one.
    """
    asked = options or SELinuxOption()
    process = base.process
    if privileged:
        process = dataclasses.replace(process, type=_PRIVILEGED_TYPE, level="s0")
    elif level:
        process = dataclasses.replace(process, level=level)
    mount = dataclasses.replace(base.mount, level=level) if level else base.mount
    process = dataclasses.replace(
        process,
        **{field: value for field in ("user", "role", "type", "level") if (value := getattr(asked, field))},
    )
    mount = dataclasses.replace(
        mount, **{field: value for field in ("user", "level") if (value := getattr(asked, field))}
    )
    return Labels(process, mount)


def free_level(used: Collection[str]) -> str:
    """Return a level of two categories that is not used.

    Raises:
        FailedPrecondition: there are as many pods as pairs.
    """
    choose = random.SystemRandom()
    for _ in range(_TRIES):
        first, second = sorted(choose.sample(range(_CATEGORIES), 2))
        if (level := f"s0:c{first},c{second}") not in used:
            return level
    raise FailedPrecondition("no pair of SELinux categories is free for another pod")


def verify(label: Label, root: str = "/") -> None:
    """Ask the kernel whether its policy knows a label. Blocking.

    Raises:
        InvalidArgument: it does not.
    """
    path = os.path.join(root, FILESYSTEM, "context")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(fd, str(label).encode() + b"\0")
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InvalidArgument(f"the node's SELinux policy knows no label {str(label)!r}") from None
        raise KernelError("write", error.errno or errno.EIO, path) from None


def relabel(path: str, label: str) -> None:
    """Give a tree of the node the label of a container's mounts. Blocking, as long as the tree is large.

    Each directory is held by a descriptor, so that a link put in the way meanwhile leads nowhere.

    Raises:
        InvalidArgument: the path is one that the node needs. KernelError: it cannot be done.
    """
    if os.path.normpath(path) in _NEVER_RELABELLED or os.path.realpath(path) in _NEVER_RELABELLED:
        raise InvalidArgument(f"{path} is not relabelled for SELinux: the node itself needs it as it is")
    value = label.encode() + b"\0"
    with _labelling(path):
        _set(os.path.realpath(path), value)
        for _, directories, names, fd in os.fwalk(path):
            for name in (*directories, *names):
                with contextlib.suppress(FileNotFoundError):
                    _set(f"/proc/self/fd/{fd}/{name}", value)


def label_one(path: str, label: str) -> None:
    """Give a file or directory of our own a label; what is made in it later gets its type. Blocking.

    Raises:
        KernelError: it cannot be done.
    """
    with _labelling(path):
        files.set_label(path, label)


@contextlib.contextmanager
def _labelling(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # the file system has labels of its own, or none
            raise KernelError("setxattr", error.errno or errno.EIO, path) from None


def _set(path: str, value: bytes) -> None:
    os.setxattr(path, files.SELINUX, value, follow_symlinks=False)


def _refuse_if_on(mode: str, why: str) -> None:
    if mode == "on":
        raise FailedPrecondition(f"selinux.enabled is on, but {why}")


def _contexts(root: str) -> tuple[str, dict[str, str]]:
    """Return the policy's file of labels for containers, and what it says."""
    config = dict(_settings(_read(os.path.join(root, CONFIG))))
    file = os.path.join(root, "etc/selinux", config.get("SELINUXTYPE", "targeted"), CONTEXTS)
    return file, dict(_settings(_read(file)))


def _settings(text: str) -> list[tuple[str, str]]:
    """Return the pairs of lines such as ``process = "system_u:..."``."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return [(key.strip(), value.strip().strip('"')) for key, value in pairs]


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""
