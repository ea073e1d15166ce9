"""Steps on what images bring along: images as volumes, volumes that an image declares."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from shim.errors import FailedPrecondition, InvalidArgument, KernelError
from shim.kernel import mount, paths
from shim.runtime import wire
from shim.runtime.context import Context
from shim.runtime.copying import copy_directory
from shim.runtime.overlay import mount_layers
from shim.runtime.steps import Step, step

# Programs of an image may be run, as they may in the container's own; nobody gains rights by them.
ATTRIBUTES: Final = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
_NOTHING_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


@step
@dataclass(frozen=True, slots=True)
class MountImage(Step):
    """Mount an image's layers for AttachVolume. Runs in: stage 1, a mount namespace of its own.

    Attributes:
        name: under which AttachVolume finds it.
        lowers: as of model.mount.ImageTree; the first is where it is mounted.
        sub_path: what of it is shown, resolved by the kernel as if the image were the root; empty for all.
    """

    name: str
    lowers: tuple[str, ...]
    sub_path: str

    def describe(self) -> str:
        """Name the part."""
        return f"mount {self.sub_path or 'the whole'!r} of an image as a volume"

    def execute(self, context: Context) -> None:
        """Mount it whole, then keep it, or a detached copy of the part."""
        try:
            tree = mount_layers(self.lowers, self.lowers[0], attributes=ATTRIBUTES)
        except KernelError as error:
            raise FailedPrecondition(f"{wire.IMAGE_VOLUME}cannot mount the image's layers: {error}") from None
        if self.sub_path:
            # Kernels before 6.15 copy no tree that is not attached.
            mount.move_mount(tree, "", mount.AT_FDCWD, self.lowers[0], mount.MOVE_MOUNT_F_EMPTY_PATH)
            part = self._open_part(tree)
            os.close(tree)
            tree = mount.open_tree(part, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
            os.close(part)
        context.keep(self.name, tree)

    def _open_part(self, root: int) -> int:
        try:
            return paths.open_in_root(root, self.sub_path, os.O_PATH)
        except KernelError as error:
            if error.errno not in _NOTHING_THERE:
                raise
            raise InvalidArgument(
                f"{wire.IMAGE_VOLUME}the image has no {self.sub_path!r}: {error.strerror}"
            ) from None


@step
@dataclass(frozen=True, slots=True)
class CopyUp(Step):
    """Fill a volume that the image declares with what the image has in its place. Runs in: stage 1.

    Attributes:
        name: under which OpenVolume left it, empty as it was made.
        path: in the image.
        owner: host ids of who owns it where the image has nothing.
    """

    name: str
    path: str
    owner: tuple[int, int] = (0, 0)

    def describe(self) -> str:
        """Name the path."""
        return f"fill the image's volume {self.path}"

    def execute(self, context: Context) -> None:
        """Copy it; where the image has nothing it stays empty. Links lead no way out of the image."""
        target = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=context.look(self.name))
        source = self._open_source(context.look("root"))
        if source is None:
            os.fchown(target, *self.owner)
        else:
            copy_directory(source, target)
            os.close(source)
        os.close(target)

    def _open_source(self, root: int) -> int | None:
        try:
            return paths.open_in_root(root, self.path, os.O_RDONLY | os.O_DIRECTORY)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            if error.errno in _NOTHING_THERE:
                raise InvalidArgument(f"it is no directory in the image: {error.strerror}") from None
            raise
