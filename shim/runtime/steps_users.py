"""Steps for pods that have a user namespace of their own.

    stage 1, the host's root                 a child beside it, root of the pod        stage 2
      | opens volumes, devices, layers,        |                                         |
      |   with the pod's map of ids            |                                         |
      | ---- InUserNamespace ----------------> | own mount namespace: attaches all,      |
      |                                        |   /dev, /sys, terminal; pivots          |
      | <-- its mount namespace, descriptors - |                                         |
      | joins user, mount, PID namespace                                                 |
      | clone3 into the cgroup ----------------------------------------------------------> | root of the pod

The one that clones must still be the host's user 0, which may write to the cgroup, and must have joined the
user namespace, which has to own the PID namespace; the one that mounts must be the pod's root, to whom its
directories belong. So there are two.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from shim.errors import FailedPrecondition, KernelError
from shim.kernel import mount, namespaces, proc, process
from shim.runtime import userns
from shim.runtime.context import Context
from shim.runtime.rooted import attach_in_root
from shim.runtime.steps import Step, decode_step, encode_step, step
from shim.runtime.userns import IdMap

USER: Final = "namespace user"
_MOUNTS: Final = "namespace mnt"
_OLD_PROC: Final = "proc of the host"
_CLONE: Final = mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE
_NO_IDMAP: Final = (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP)


@step
@dataclass(frozen=True, slots=True)
class MakeUserNamespace(Step):
    """Make the user namespace of a pod and those that it owns, and join the others as the host's root.

    Attributes:
        uids, gids: of userns.IdMap.
        kinds: those others.
    """

    uids: IdMap
    gids: IdMap
    kinds: tuple[str, ...]
    SAYS: ClassVar = "make the pod's user namespace"

    def execute(self, context: Context) -> None:
        """Keep the user namespace as a descriptor: who joins it is the host's root no more."""
        with userns.inhabited(self.uids, self.gids, self.kinds) as child:
            path = f"/proc/{child.pid}/ns/user"
            context.keep(USER, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            if self.kinds:
                namespaces.setns(child.pidfd, namespaces.flags_of(self.kinds), "the pod's new namespaces")


@step
@dataclass(frozen=True, slots=True)
class MakeIdMap(Step):
    """Make a user namespace that nobody lives in, to say how a volume's ids are shown.

    Attributes:
        name: under which OpenVolume finds it.
    """

    name: str
    uids: IdMap
    gids: IdMap
    SAYS: ClassVar = "make the id map of a volume"

    def execute(self, context: Context) -> None:
        """Keep its descriptor."""
        with userns.inhabited(self.uids, self.gids) as child:
            path = f"/proc/{child.pid}/ns/user"
            context.keep(self.name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))


@step
@dataclass(frozen=True, slots=True)
class PinUserNamespace(Step):
    """Bind the user namespace to an empty file, so that it outlives those who are in it."""

    path: str

    def describe(self) -> str:
        """Name the path."""
        return f"pin the user namespace at {self.path}"

    def execute(self, context: Context) -> None:
        """Mount it by its descriptor."""
        mount.mount(f"/proc/self/fd/{context.look(USER)}", self.path, None, mount.MS_BIND)


@step
@dataclass(frozen=True, slots=True)
class MapLayers(Step):
    """Show layers with the ids of the pod. Runs in: stage 1, a mount namespace of its own.

    Attributes:
        lowers: directories; each is hidden by a mount of itself.
    """

    lowers: tuple[str, ...]
    SAYS: ClassVar = "map the ids of the image's layers"

    def execute(self, context: Context) -> None:
        """Mount each on itself: overlayfs then finds it by its path."""
        for path in self.lowers:
            tree = mount.open_tree(mount.AT_FDCWD, path, mount.OPEN_TREE_CLONE)
            map_ids(tree, context.look(USER), path, recursive=False)
            mount.move_mount(tree, "", mount.AT_FDCWD, path, mount.MOVE_MOUNT_F_EMPTY_PATH)
            os.close(tree)


@step
@dataclass(frozen=True, slots=True)
class InUserNamespace(Step):
    """Carry out steps as root of the pod, in a mount namespace that belongs to it.

    Attributes:
        steps: of ``encode_step``; the last one pivots.
    """

    steps: tuple[Any, ...]
    SAYS: ClassVar = "work inside the pod's user namespace"

    @classmethod
    def of(cls, steps: Iterable[Step]) -> InUserNamespace:
        """Return the step for steps."""
        return cls(tuple(tuple(encode_step(each)) for each in steps))

    def execute(self, context: Context) -> None:
        """Do it in a child, and take over what it keeps and the mount namespace that it made."""
        state = json.loads(userns.run_beside(lambda: self._inside(context), context))
        context.kept = state["kept"]
        context.tty_master = state["tty"]

    def _inside(self, context: Context) -> str:
        todo = [decode_step(list(each)) for each in self.steps]
        namespaces.setns(context.look(USER), namespaces.CLONE_NEWUSER, "the pod's user namespace")
        userns.become_root()
        namespaces.unshare(namespaces.CLONE_NEWNS)
        context.keep(_MOUNTS, os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        for each in todo:
            context.stage = each.describe()
            each.execute(context)
        return json.dumps({"kept": context.kept, "tty": context.tty_master})


@step
@dataclass(frozen=True, slots=True)
class AttachRoot(Step):
    """Attach the root that the host's root has mounted. Runs in: the pod's user namespace."""

    SAYS: ClassVar = "attach the root file system"

    def execute(self, context: Context) -> None:
        """Attach it at a directory that every node has, and that nothing else here needs."""
        tree = context.look("root")
        mount.move_mount(tree, "", mount.AT_FDCWD, "/dev", mount.MOVE_MOUNT_F_EMPTY_PATH)


@step
@dataclass(frozen=True, slots=True)
class ShowHostProc(Step):
    """Put the host's /proc where the container's is going to be. Runs in: the pod's user namespace.

    The kernel mounts a proc file system in a user namespace only where one can be seen already, whole.
    """

    SAYS: ClassVar = "keep a /proc until the container has its own"

    def execute(self, context: Context) -> None:
        """Attach a copy, and keep it to be taken away."""
        tree = mount.open_tree(mount.AT_FDCWD, "/proc", _CLONE)
        attach_in_root(context, tree, "/proc")
        context.keep(_OLD_PROC, tree)


@step
@dataclass(frozen=True, slots=True)
class ReplaceProc(Step):
    """Mount the container's /proc in place of the host's. Runs in: stage 2.

    Attributes:
        attributes: MOUNT_ATTR_* bits.
    """

    attributes: int
    SAYS: ClassVar = "mount proc at /proc"

    def execute(self, context: Context) -> None:
        """Make it while the old one can be seen, take that away by its descriptor, then attach it."""
        try:
            tree = mount.new_mount("proc", "proc", (), self.attributes)
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
            raise FailedPrecondition(
                "the kernel refuses a /proc in a user namespace: the node's own is covered in parts, as it is"
                " where the runtime is in a container"
            ) from None
        old = context.take(_OLD_PROC)
        os.fchdir(old)
        mount.umount(".", mount.MNT_DETACH)
        os.chdir("/")
        os.close(old)
        attach_in_root(context, tree, "/proc")
        os.close(tree)


@step
@dataclass(frozen=True, slots=True)
class EnterUserNamespace(Step):
    """Join the pod's user namespace, but stay the host's user 0, to whom its cgroup belongs."""

    SAYS: ClassVar = "join the pod's user namespace"

    def execute(self, context: Context) -> None:
        """Join it; whoever was forked before stays outside."""
        fd = context.take(USER)
        namespaces.setns(fd, namespaces.CLONE_NEWUSER, "the pod's user namespace")
        os.close(fd)
        process.set_dumpable(False)


@step
@dataclass(frozen=True, slots=True)
class BecomeRoot(Step):
    """Become root of the user namespace. Runs in: stage 2."""

    SAYS: ClassVar = "become root of the user namespace"

    def execute(self, context: Context) -> None:
        """Change all ids; the capabilities there stay."""
        userns.become_root()


@step
@dataclass(frozen=True, slots=True)
class OpenProcessNamespaces(Step):
    """Open namespaces of a running process, if it is still the one that was meant."""

    pid: int
    start_time: int
    kinds: tuple[str, ...]
    SAYS: ClassVar = "open the namespaces of a container"

    def execute(self, context: Context) -> None:
        """Keep a descriptor for each; the process is held meanwhile."""
        pidfd = process.hold(self.pid, self.start_time)
        if pidfd is None:
            raise FailedPrecondition("the container whose namespaces are to be joined has ended")
        for kind in self.kinds:
            path = f"/proc/{self.pid}/ns/{kind}"
            context.keep(f"namespace {kind}", os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        os.close(pidfd)


@step
@dataclass(frozen=True, slots=True)
class TryIdMaps(Step):
    """Try whether a directory's file system, and memory file systems, can show other ids.

    Attributes:
        path: the directory.
    """

    path: str

    def describe(self) -> str:
        """Name the directory."""
        return f"try to map the ids of {self.path}"

    def execute(self, context: Context) -> None:
        """Map a detached copy of each."""
        fd = context.look(USER)
        for tree, shown in (
            (mount.open_tree(mount.AT_FDCWD, self.path, mount.OPEN_TREE_CLONE), self.path),
            (mount.new_mount("tmpfs", "probe", ("size=4k",)), "a tmpfs"),
        ):
            map_ids(tree, fd, shown, recursive=False)
            os.close(tree)


def map_ids(tree: int, userns_fd: int, shown: str, *, recursive: bool) -> bool:
    """Show a detached tree with the ids of a user namespace; return whether all mounts below it are, too.

    Raises:
        FailedPrecondition: its file system cannot do that; names it.
    """
    if recursive and _map_ids(tree, mount.AT_EMPTY_PATH | mount.AT_RECURSIVE, userns_fd) == 0:
        return True
    refused = _map_ids(tree, mount.AT_EMPTY_PATH, userns_fd)
    if refused:
        raise FailedPrecondition(
            f"the ids of {shown} cannot be mapped: its mount, {_mount_of(shown)}, does not take an id map"
            f" ({os.strerror(refused)})"
        )
    return not recursive


def _map_ids(tree: int, flags: int, userns_fd: int) -> int:
    """Return 0, or the errno of a refusal that has to do with the file system."""
    try:
        mount.mount_setattr(tree, "", flags, set_=mount.MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
    except KernelError as error:
        if error.errno not in _NO_IDMAP:
            raise
        return error.errno or errno.EINVAL
    return 0


def _mount_of(path: str) -> str:
    """Return point and type of the mount that a host path lies on."""
    if not path.startswith("/"):
        return path
    real = os.path.realpath(path)
    best = None
    for info in proc.mountinfo():
        point = info.mount_point.rstrip("/")
        inside = real == info.mount_point or real.startswith(point + "/")
        if inside and (best is None or len(info.mount_point) >= len(best.mount_point)):
            best = info
    return f"{best.mount_point} ({best.fstype})" if best is not None else path
