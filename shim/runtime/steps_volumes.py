"""Steps that bring host directories and files into a container.

Each is opened in the host's namespaces, as the host's root, into a detached tree, and attached when the new
root stands: the container's tree never decides what a host path means, nor the other way round.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import ClassVar, Final

from shim.errors import FailedPrecondition, InvalidArgument, KernelError
from shim.kernel import mount, proc
from shim.model.mount import Propagation
from shim.runtime import wire
from shim.runtime.context import Context
from shim.runtime.rooted import attach_in_root
from shim.runtime.steps import Step, step
from shim.runtime.steps_users import map_ids

_PROPAGATION: Final = {
    Propagation.PRIVATE: mount.MS_PRIVATE,
    Propagation.HOST_TO_CONTAINER: mount.MS_SLAVE,
    Propagation.BIDIRECTIONAL: mount.MS_SHARED,
}
_NO_PATH: Final = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_WHOLE: Final = mount.AT_EMPTY_PATH | mount.AT_RECURSIVE


@step
@dataclass(frozen=True, slots=True)
class OpenVolume(Step):
    """Clone the tree of a host path. Runs in: stage 1, the host's namespaces.

    Attributes:
        name: under which AttachVolume finds it.
        propagation: model.mount.Propagation.
        id_map: the kept user namespace whose ids it shows; empty for none.
        foreign: the path is not one of ours, so it may lie on a file server that does not answer.
    """

    name: str
    host_path: str
    readonly: bool
    recursive_read_only: bool
    propagation: int
    id_map: str = ""
    foreign: bool = False

    def describe(self) -> str:
        """Name the host path."""
        return f"open the volume {self.host_path}"

    def execute(self, context: Context) -> None:
        """Clone it and set what it allows, before anybody can see it. A directory that is missing is made."""
        if self.foreign:
            with context.watched(self.describe()):
                self._open(context)
        else:
            self._open(context)

    def _open(self, context: Context) -> None:
        propagation = Propagation(self.propagation)
        try:
            tree = self._clone()
        except KernelError as error:
            if error.errno in _NO_PATH:
                raise InvalidArgument(
                    f"host_path {self.host_path!r}: {os.strerror(error.errno).lower()}"
                ) from None
            if error.errno != errno.ENOENT:
                raise
            self._make()
            tree = self._clone()
        context.keep(self.name, tree)
        if self.id_map and not map_ids(tree, context.look(self.id_map), self.host_path, recursive=True):
            context.warn(f"mounts below the volume {self.host_path} do not take an id map: nobody owns them")
        if propagation is not Propagation.PRIVATE:
            _check_propagation(self.host_path, propagation)
        mount.mount_setattr(tree, "", _WHOLE, propagation=_PROPAGATION[propagation])
        if self.recursive_read_only:
            try:
                mount.mount_setattr(tree, "", _WHOLE, set_=mount.MOUNT_ATTR_RDONLY)
            except KernelError as error:
                raise InvalidArgument(
                    f"{wire.READ_ONLY}cannot make {self.host_path} read-only: {error}"
                ) from None
        elif self.readonly:
            mount.mount_setattr(tree, "", mount.AT_EMPTY_PATH, set_=mount.MOUNT_ATTR_RDONLY)

    def _make(self) -> None:
        try:
            os.makedirs(self.host_path, 0o755, exist_ok=True)
        except FileExistsError:
            raise FailedPrecondition(f"{self.host_path} is a link that leads nowhere") from None

    def _clone(self) -> int:
        return mount.open_tree(mount.AT_FDCWD, self.host_path, mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE)


@step
@dataclass(frozen=True, slots=True)
class RestrictVolume(Step):
    """Set attributes of an opened volume; mounts below it keep their own.

    Attributes:
        attributes: MOUNT_ATTR_* bits.
    """

    name: str
    attributes: int
    SAYS: ClassVar = "restrict a volume"

    def execute(self, context: Context) -> None:
        """Set them, before anybody can see the volume."""
        tree = context.look(self.name)
        mount.mount_setattr(tree, "", mount.AT_EMPTY_PATH, set_=self.attributes)


@step
@dataclass(frozen=True, slots=True)
class AttachVolume(Step):
    """Put an opened volume where the container sees it."""

    name: str
    target: str

    def describe(self) -> str:
        """Name the target."""
        return f"attach a volume at {self.target}"

    def execute(self, context: Context) -> None:
        """Attach it."""
        tree = context.take(self.name)
        attach_in_root(context, tree, self.target)
        os.close(tree)


@step
@dataclass(frozen=True, slots=True)
class ShowCgroups(Step):
    """Show the hierarchies of version 1, each from one directory down.

    Attributes:
        target: where, below the root.
        binds: pairs of (host directory, name below the target); a name with commas stands for each part too.
        attributes: MOUNT_ATTR_* bits of all.
    """

    target: str
    binds: tuple[tuple[str, str], ...]
    attributes: int
    SAYS: ClassVar = "show the container its cgroups"

    def execute(self, context: Context) -> None:
        """Mount a directory of hierarchies, fill it, and only then make it what ``attributes`` say."""
        whole = mount.new_mount("tmpfs", "cgroup", ("mode=755",))
        attach_in_root(context, whole, self.target)
        for source, name in self.binds:
            os.mkdir(name, 0o755, dir_fd=whole)
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=whole)
            tree = mount.open_tree(mount.AT_FDCWD, source, mount.OPEN_TREE_CLONE)
            mount.mount_setattr(tree, "", mount.AT_EMPTY_PATH, set_=self.attributes)
            mount.attach(tree, place, name)
            os.close(tree)
            os.close(place)
            parts = name.split(",")
            for part in parts if len(parts) > 1 else ():
                os.symlink(name, part, dir_fd=whole)
        mount.mount_setattr(whole, "", mount.AT_EMPTY_PATH, set_=self.attributes)
        os.close(whole)


def _check_propagation(host_path: str, wanted: Propagation) -> None:
    """Check that the mount which a path lies on can do what is asked; a clone of a private one never could.

    Raises:
        FailedPrecondition: it is not shared.
    """
    fd = os.open(host_path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            mount_id = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    for info in proc.mountinfo():
        if info.mount_id == mount_id:
            enough = ("shared:",) if wanted is Propagation.BIDIRECTIONAL else ("shared:", "master:")
            if not any(each.startswith(enough) for each in info.optional):
                raise FailedPrecondition(
                    f"path {host_path!r} is mounted on {info.mount_point!r} but it is not a shared mount"
                    f"{'' if wanted is Propagation.BIDIRECTIONAL else ' or slave mount'}"
                )
