"""What a layer needs of those below it, done when they are there.

Layers are unpacked all at once, so two things wait: a directory that the archive only implies takes owner,
mode, times and attributes of the one below (else it would change them for everybody above), and a hard link
to a file that only a lower layer has takes a copy of it. Where a lower layer has a link under the name of an
implied directory, what was put into the directory belongs where the link leads; then the layer is unpacked
again. Blocking; rare: builders write the parents of what they add.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final

from shim.errors import InvalidArgument
from shim.images.merged import MergedTree, tree_order
from shim.images.unpack.attributes import show
from shim.images.unpack.directories import Directories
from shim.kernel import files

_OVERLAY: Final = "trusted.overlay."
_MAX_ALIAS_BYTES: Final = 8 << 10  # they go to a worker in one message; in JSON a byte may take six


def settle(layer: str, lowers: Sequence[str]) -> dict[str, str]:
    """Finish an unpacked layer.

    Args:
        layer: its directory, with ``fs`` and ``layer.json``.
        lowers: ``fs`` directories of the layers below, the topmost first.

    Returns:
        Directory -> place: links of lower layers that the layer's entries go through. If there are any, the
        layer is of no use: it has to be unpacked again with these aliases.

    Raises:
        InvalidArgument: a hard link leads to nothing.
    """
    with open(os.path.join(layer, "layer.json"), "rb") as file:
        facts: dict[str, Any] = json.load(file)
    fs = os.path.join(layer, "fs")
    root_fd = os.open(fs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    below_paths = [] if facts["opaque_root"] else lowers
    implied = [os.fsencode(path) for path in facts["implied"]]
    try:
        with MergedTree(below_paths) as below, MergedTree([fs, *below_paths]) as merged:
            aliases = _find_aliases(below, implied)
            if aliases:
                return aliases
            made: list[bytes] = []
            for new, target in facts["links"]:
                place, above = _link(root_fd, merged, os.fsencode(new), os.fsencode(target))
                implied += above
                made += [place, *above]
            # Last: what is made inside a directory changes its times.
            _copy_directories(fs, below, implied)
    finally:
        os.close(root_fd)
    if made:
        facts["made"] += map(os.fsdecode, made)
        files.write_atomic(os.path.join(layer, "layer.json"), json.dumps(facts).encode())
    return {}


def _find_aliases(below: MergedTree, implied: Sequence[bytes]) -> dict[str, str]:
    """Return which of the directories a lower layer has as a link, and where that leads."""
    aliases: dict[str, str] = {}
    size = 0
    above: list[tuple[bytes, bytes]] = []  # of the aliases that lead to the directory at hand, from the top
    with below.cursor() as cursor:
        for path in tree_order(implied):
            while above and not path.startswith(above[-1][0]):
                above.pop()
            if not _is_link(cursor.find(_replace_start(path, *above[-1]) if above else path)):
                continue
            place = below.resolve(path)
            if place is None:
                raise InvalidArgument(
                    f"malformed layer: entries lie below {show(path)}, a link of a lower layer to nowhere"
                )
            aliases[os.fsdecode(path)] = os.fsdecode(place)
            above.append((path + b"/", place + b"/" if place else b""))
            size += len(path) + len(place)
            if size > _MAX_ALIAS_BYTES:
                raise InvalidArgument(
                    "malformed layer: its entries go through too many links of lower layers"
                )
    return aliases


def _replace_start(path: bytes, start: bytes, place: bytes) -> bytes:
    return place + path[len(start) :]


def _is_link(fd: int | None) -> bool:
    return fd is not None and stat.S_ISLNK(os.fstat(fd).st_mode)


def _copy_directories(fs: str, below: MergedTree, implied: Sequence[bytes]) -> None:
    with MergedTree([fs]) as own, below.cursor() as sources, own.cursor() as targets:
        for path in tree_order(set(implied)):
            source, target = sources.find(path), targets.find(path)
            if source is None or target is None or not stat.S_ISDIR(os.fstat(source).st_mode):
                continue
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
            try:
                _copy_metadata(source, fd)
            finally:
                os.close(fd)


def _copy_metadata(source: int, fd: int) -> None:
    info = os.fstat(source)
    os.fchown(fd, info.st_uid, info.st_gid)
    os.fchmod(fd, stat.S_IMODE(info.st_mode))
    for name, value in files.list_xattrs(files.fd_path(source), follow_symlinks=True):
        if not name.startswith(_OVERLAY):
            files.set_xattr(fd, name, value)
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))


def _link(root_fd: int, merged: MergedTree, new: bytes, target: bytes) -> tuple[bytes, list[bytes]]:
    """Copy a lower file up and link to it; return where it is now, and the directories made for that."""
    dirs = Directories(root_fd)
    parent, _, base = target.rpartition(b"/")
    try:
        with merged.find(target, follow=False) as source:
            parent_place = merged.resolve(parent)
            if source is None or parent_place is None or stat.S_ISDIR(os.fstat(source).st_mode):
                raise InvalidArgument(
                    f"malformed layer: {show(new)} is a hard link to {show(target)}: no such file"
                )
            with _unchanged_times(dirs.fd(parent_place)) as dir_fd:
                _copy_up(source, dir_fd, base)
        source_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dirs.fd(parent_place))
        try:
            parent, _, name = new.rpartition(b"/")
            with _unchanged_times(dirs.fd(parent)) as dir_fd:
                os.link(base, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        finally:
            os.close(source_fd)
    finally:
        dirs.close()
    return parent_place + b"/" + base if parent_place else base, sorted(dirs.implied)


@contextlib.contextmanager
def _unchanged_times(dir_fd: int) -> Iterator[int]:
    """Give a directory its times back after something was made in it: its entry said them."""
    info = os.fstat(dir_fd)
    yield dir_fd
    os.utime(files.fd_path(dir_fd), ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_up(source: int, dir_fd: int, name: bytes) -> None:
    info = os.fstat(source)
    try:
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(b"", dir_fd=source), name, dir_fd=dir_fd)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=dir_fd, follow_symlinks=False)
            return
        if not stat.S_ISREG(info.st_mode):
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=dir_fd)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=dir_fd, follow_symlinks=False)
            return
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
    except FileExistsError:
        return  # an earlier link of this layer has copied it
    with open(fd, "wb") as out, open(files.fd_path(source), "rb") as content:
        shutil.copyfileobj(content, out, 1 << 20)
        out.flush()
        _copy_metadata(source, fd)
