"""Steps that assemble a container's root file system.

Everything that a host path names is opened first, as the host's root, into detached trees. The rest happens
in a mount namespace of the container's own, which the host never sees, on targets that are resolved below
the descriptor of the new root: the image may have put a link anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from shim.errors import InvalidArgument, KernelError
from shim.kernel import mount, paths, tty
from shim.runtime import wire
from shim.runtime.context import Context
from shim.runtime.overlay import mount_layers
from shim.runtime.rooted import attach_in_root
from shim.runtime.steps import Step, step
from shim.runtime.steps_labels import label_file

_OURS: Final = ("proc", "sys", "dev")
_NULL_DEVICE: Final = os.makedev(1, 3)
_TYPES: Final = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


@step
@dataclass(frozen=True, slots=True)
class DetachFromHost(Step):
    """Get the host's unmounts, but tell it of none of ours.

    Never private: a mount that the host has undone would live on in here and keep its device busy.
    """

    SAYS: ClassVar = "make every mount a slave of the host's"

    def execute(self, context: Context) -> None:
        """Change the propagation of all."""
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)


@step
@dataclass(frozen=True, slots=True)
class MountOverlay(Step):
    """Mount the layers, and hold their root; nothing leaves this mount namespace.

    Attributes:
        options: more of the file system, ``key=value``.
        attach: where nobody else is going to attach it.
        attributes: MOUNT_ATTR_* bits.
    """

    lowers: tuple[str, ...]
    upper: str
    work: str
    options: tuple[str, ...] = ()
    attach: bool = True
    attributes: int = 0
    SAYS: ClassVar = "mount the image's layers"

    def execute(self, context: Context) -> None:
        """Mount it over its own upper directory: a place that exists and that nobody else needs in here."""
        tree = mount_layers(self.lowers, self.upper, self.upper, self.work, self.attributes, self.options)
        if self.attach:
            mount.move_mount(tree, "", mount.AT_FDCWD, self.upper, mount.MOVE_MOUNT_F_EMPTY_PATH)
        for name in _OURS:
            _refuse_link(tree, name)
        context.keep("root", tree)


@step
@dataclass(frozen=True, slots=True)
class MountNew(Step):
    """Mount a new file system below the root.

    Attributes:
        attributes: MOUNT_ATTR_* bits.
        options: for the file system, ``key=value`` or ``key``.
        label: of SELinux, for its root directory, where the mount cannot have one; empty for none.
    """

    fstype: str
    source: str
    target: str
    attributes: int
    options: tuple[str, ...]
    label: str = ""

    def describe(self) -> str:
        """Name type and target."""
        return f"mount {self.fstype} at {self.target}"

    def execute(self, context: Context) -> None:
        """Make it detached, then attach it."""
        tree = mount.new_mount(self.fstype, self.source, self.options, self.attributes)
        if self.label:
            directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
            label_file(context, directory, self.label, self.target)
            os.close(directory)
        attach_in_root(context, tree, self.target)
        os.close(tree)


@step
@dataclass(frozen=True, slots=True)
class OpenNew(Step):
    """Make a new file system for AttachVolume, as the host's root: then it may hold devices.

    Attributes:
        name: under which AttachVolume finds it.
        attributes: MOUNT_ATTR_* bits.
        options: for the file system, ``key=value`` or ``key``.
    """

    name: str
    fstype: str
    attributes: int
    options: tuple[str, ...]

    def describe(self) -> str:
        """Name the type."""
        return f"make a {self.fstype} for {self.name}"

    def execute(self, context: Context) -> None:
        """Make it, and keep it detached."""
        context.keep(self.name, mount.new_mount(self.fstype, self.fstype, self.options, self.attributes))


@step
@dataclass(frozen=True, slots=True)
class MakeDevices(Step):
    """Make device nodes and links.

    Attributes:
        nodes: tuples of (path, ``c``, ``b`` or ``p``, major, minor, permission bits, uid, gid).
        links: pairs of (path, what it leads to).
        root: the kept tree that the paths are in.
        owner: host ids of who owns the links.
    """

    nodes: tuple[tuple[str, str, int, int, int, int, int], ...]
    links: tuple[tuple[str, str], ...]
    root: str = "root"
    owner: tuple[int, int] = (0, 0)
    SAYS: ClassVar = "make the devices"

    def execute(self, context: Context) -> None:
        """Make each in its directory, found below the root; what an image has there goes first."""
        root = context.look(self.root)
        parents: dict[str, int] = {}
        umask = os.umask(0)
        for path, kind, major, minor, mode, uid, gid in self.nodes:
            parent, name = _parent(root, path, parents)
            type_ = _TYPES[kind]
            _replace(os.mknod, parent, name, name, type_ | mode, os.makedev(major, minor))
            if uid or gid:
                os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
                os.chmod(name, mode, dir_fd=parent)
        os.umask(umask)
        for path, leads_to in self.links:
            parent, name = _parent(root, path, parents)
            _replace(os.symlink, parent, name, leads_to, name)
            if any(self.owner):
                os.chown(name, *self.owner, dir_fd=parent, follow_symlinks=False)
        for fd in parents.values():
            os.close(fd)


@step
@dataclass(frozen=True, slots=True)
class OpenTerminal(Step):
    """Open a terminal of the container's own devpts and show it as /dev/console."""

    uid: int
    rows: int
    columns: int
    SAYS: ClassVar = "open the terminal"

    def execute(self, context: Context) -> None:
        """Open it by descriptor alone; bind the slave by its descriptor too (CVE-2025-52565)."""
        root = context.look("root")
        devpts = paths.open_in_root(root, "/dev/pts", os.O_RDONLY | os.O_DIRECTORY)
        master, slave = tty.open_pty(devpts)
        os.close(devpts)
        if self.rows and self.columns:
            tty.set_winsize(master, self.rows, self.columns)
        os.fchown(slave, self.uid, -1)
        tree = mount.open_tree(slave, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
        attach_in_root(context, tree, "/dev/console")
        os.close(tree)
        context.tty_master = master
        context.keep("terminal", slave)


@step
@dataclass(frozen=True, slots=True)
class OpenTerminalHere(Step):
    """Open a terminal of the devpts of a container that runs, and send the daemon its master.

    Nobody but the daemon holds the master, so the program hangs up when the daemon closes it, or ends. The
    container may have mounted over /dev/pts what it likes: only a master answers what the slave is asked for
    with, and only this process waits where a file system never answers.

    Runs in: the second stage, which can be killed at any time.
    """

    uid: int
    SAYS: ClassVar = "open the terminal"

    def execute(self, context: Context) -> None:
        """Open it by descriptor alone; send the master away."""
        devpts = os.open("/dev/pts", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        master, slave = tty.open_pty(devpts)
        os.close(devpts)
        os.fchown(slave, self.uid, -1)
        wire.send(context.fds["sync"], {"type": "fds", "names": ["tty"]}, [master])
        os.close(master)
        context.keep("terminal", slave)


@step
@dataclass(frozen=True, slots=True)
class PivotRoot(Step):
    """Make the new root the only one: the host's is detached whole, not hidden."""

    SAYS: ClassVar = "enter the root file system"

    def execute(self, context: Context) -> None:
        """Stack the old root on the new one and take it away (pivot_root(2), NOTES)."""
        os.fchdir(context.look("root"))
        mount.pivot_root(".", ".")
        mount.umount(".", mount.MNT_DETACH)
        os.chdir("/")


@step
@dataclass(frozen=True, slots=True)
class ProtectPaths(Step):
    """Hide paths, and make paths read-only. Runs in: stage 2, after /proc is mounted, still as root.

    Attributes:
        masked: seen as empty; what is missing is passed over.
        readonly: seen, not changed.
        label: of SELinux, for what is seen in place of a directory; empty for none.
    """

    masked: tuple[str, ...]
    readonly: tuple[str, ...]
    label: str = ""
    SAYS: ClassVar = "mask paths"

    def execute(self, context: Context) -> None:
        """Cover each by descriptor."""
        root = context.look("root")
        for path in self.readonly:
            self._cover(root, path, self._readonly_copy)
        for path in self.masked:
            self._cover(root, path, self._nothing)

    @staticmethod
    def _cover(root: int, path: str, make: Callable[[int, int], int]) -> None:
        try:
            target = paths.open_in_root(root, path, os.O_PATH)
        except KernelError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        tree = make(root, target)
        mount.attach(tree, target, path)
        os.close(tree)
        os.close(target)

    @staticmethod
    def _readonly_copy(root: int, target: int) -> int:
        flags = mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE | mount.AT_EMPTY_PATH
        tree = mount.open_tree(target, "", flags)
        mount.mount_setattr(tree, "", mount.AT_EMPTY_PATH, set_=mount.MOUNT_ATTR_RDONLY)
        return tree

    def _nothing(self, root: int, target: int) -> int:
        if stat.S_ISDIR(os.fstat(target).st_mode):
            options = ("size=0k", *mount.context_options(self.label))
            return mount.new_mount("tmpfs", "tmpfs", options, mount.MOUNT_ATTR_RDONLY)
        null = paths.open_in_root(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
        try:
            # An image may have put something else there, to have it bound in place (CVE-2025-31133).
            status = os.fstat(null)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _NULL_DEVICE:
                raise InvalidArgument("cannot mask a path: /dev/null of the container is not the null device")
            return mount.open_tree(null, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
        finally:
            os.close(null)


@step
@dataclass(frozen=True, slots=True)
class RootReadonly(Step):
    """Make the root mount read-only; the mounts on it keep their own mode."""

    SAYS: ClassVar = "make the root file system read-only"

    def execute(self, context: Context) -> None:
        """Set the attribute of the one mount."""
        mount.mount_setattr(context.look("root"), "", mount.AT_EMPTY_PATH, set_=mount.MOUNT_ATTR_RDONLY)


def _refuse_link(root: int, name: str) -> None:
    """Refuse a link where a file system of ours goes.

    It could lead into a volume, where somebody else moves what is mounted, and puts something of his own in
    its place, while we still work on it (CVE-2025-31133, CVE-2025-52881).
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
            raise InvalidArgument(f"the image has a link at /{name}, where a directory must be")


def _parent(root: int, path: str, known: dict[str, int]) -> tuple[int, str]:
    """Return the directory of a path below the root, made if missing, and the last name."""
    directory, _, name = path.rpartition("/")
    if directory not in known:
        known[directory] = paths.mkdir_in_root(root, directory)
    return known[directory], name


def _replace(make: Callable[..., None], directory: int, name: str, *arguments: Any) -> None:
    """Make something in a directory, in place of what is there."""
    try:
        make(*arguments, dir_fd=directory)
    except FileExistsError:
        if name in ("", ".") or stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            raise InvalidArgument(f"cannot make device {name!r}: a directory is in its place") from None
        os.unlink(name, dir_fd=directory)
        make(*arguments, dir_fd=directory)
