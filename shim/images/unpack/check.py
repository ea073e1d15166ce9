"""Whether a layer on disk still is what was unpacked: nothing is written, whatever is wrong is named.

The record and the files give the archive's stream again, whose digest proves the content of every file and
every header. So the headers can be trusted, and each is compared with what lies under its name: type, mode,
owner, time, device, link, attributes. Then the tree is walked for names that no header has.

What an archive says twice (a name that a later entry took over) is only told by the last entry. A layer where
links led into what was taken over is not checked, nor are names where marks lay in it: no builder does that.
Extended attributes that the file system did not take when the layer was unpacked cannot be missed; file
capabilities must be there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shim.errors import FailedPrecondition, InvalidArgument
from shim.images.unpack import record, tar
from shim.images.unpack.attributes import MUST_HAVE, is_kept, place, show, times
from shim.images.unpack.directories import OPAQUE, is_whiteout
from shim.images.unpack.writer import AUFS_META, OPAQUE_MARK, WHITEOUT
from shim.kernel import files, paths

MAX_PROBLEMS: Final = 20
_MAX_LENGTH: Final = 500  # of a sentence: a path may have thousands of bytes
_MAX_KEPT: Final = 1000
_HELD: Final = 200
_MASK: Final = 0o7777
_SECOND_NS: Final = 1_000_000_000
_KINDS: Final = {
    tar.FILE: stat.S_IFREG,
    tar.DIRECTORY: stat.S_IFDIR,
    tar.SYMLINK: stat.S_IFLNK,
    tar.CHAR_DEVICE: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.FIFO: stat.S_IFIFO,
}
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

Key = tuple[int, bytes]
"""(inode of the directory, name)."""


def check(layer_fd: int, facts: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a layer, at most MAX_PROBLEMS sentences; none if it is whole.

    Args:
        layer_fd: its directory.
        facts: its ``layer.json``.
    """
    if facts.get("tangled"):
        return []
    root_fd = os.open("fs", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer_fd)
    tree = _Tree(root_fd, facts)
    try:
        problem = _read(layer_fd, facts, tree)
        return [problem] if problem else tree.finish()
    finally:
        tree.close()
        os.close(root_fd)


def _read(layer_fd: int, facts: Mapping[str, Any], tree: _Tree) -> str:
    """Compare everything that the stream names; return what is wrong with the stream itself, or nothing."""
    found, reader = hashlib.sha256(), tar.TarReader()
    displaced = [(since, os.fsencode(old), name) for since, old, name in facts["displaced"]]
    try:
        for data in record.assemble(layer_fd, displaced):
            found.update(data)
            for event in reader.feed(data):
                if isinstance(event, tar.Entry):
                    tree.compare(event)
    except (FailedPrecondition, InvalidArgument) as error:
        return str(error)
    if f"sha256:{found.hexdigest()}" != facts["diff_id"]:
        return f"the content of a file has changed: the digest is sha256:{found.hexdigest()}"
    return ""


class _Tree:
    def __init__(self, root_fd: int, facts: Mapping[str, Any]) -> None:
        self._root_fd = root_fd
        self._root_ino = os.stat(".", dir_fd=root_fd).st_ino
        self._aliases = {
            os.fsencode(key): os.fsencode(value) for key, value in facts.get("aliases", {}).items()
        }
        self._moved = {os.fsencode(old) for _, old, _ in facts["displaced"]}
        self._made = [os.fsencode(path) for path in facts.get("made", facts["implied"])]
        self._from_below = {os.fsencode(new) for new, _ in facts["links"]}
        self._held: dict[bytes, tuple[int, int]] = {}
        self._seen: set[Key] = set()
        self._added: set[bytes] = set()
        self._whiteouts: dict[Key, bytes] = {}
        self._opaque: set[int] = set()
        self._wrong: dict[Key, str] = {}
        self._is_sure = True  # no mark about lower layers went away with the directory that it was for

    def compare(self, entry: tar.Entry) -> None:
        """Compare one entry with the disk."""
        path = place(entry.path, self._aliases)
        parent, _, name = path.rpartition(b"/")
        if not path:
            self._note((self._root_ino, b"."), path, self._differs(entry, self._root_fd, b"."))
            return
        if path.startswith(AUFS_META) or (name.startswith(AUFS_META) and name != OPAQUE_MARK):
            return
        if parent not in self._held:
            self._add(parent)
        held = self._directory(parent)
        if held is None:
            self._note((0, path), path, "its directory is missing")
            return
        fd, inode = held
        is_mark = name.startswith(WHITEOUT) or (entry.kind == tar.CHAR_DEVICE and entry.device == (0, 0))
        if is_mark and self._was_moved(path):
            self._is_sure = False
        if name == OPAQUE_MARK:
            self._opaque.add(inode)
        elif entry.kind == tar.CHAR_DEVICE and entry.device == (0, 0):
            self._whiteouts[inode, name] = path  # overlayfs takes it for one
            self._note((inode, name), path, "")
        elif name.startswith(WHITEOUT):
            gone = name[len(WHITEOUT) :]
            self._whiteouts[inode, gone] = parent + b"/" + gone if parent else gone
        else:
            self._seen.add((inode, name))
            self._note((inode, name), path, self._differs(entry, fd, name))

    def finish(self) -> list[str]:
        """Look for whiteouts, and for what nobody put there; return all that is wrong."""
        if not self._is_sure:
            return []
        for path in self._made:
            self._add(path)
        for (inode, name), path in self._whiteouts.items():
            if (inode, name) not in self._seen:
                self._note((inode, name), path, self._no_whiteout(path))
        found = list(self._wrong.values())
        for problem in self._extras():
            if len(found) >= MAX_PROBLEMS:
                break
            found.append(_short(problem))
        return found[:MAX_PROBLEMS]

    def close(self) -> None:
        for fd, _ in self._held.values():
            os.close(fd)
        self._held.clear()

    def _note(self, key: Key, path: bytes, problem: str) -> None:
        """Keep what is wrong under a name, unless a later entry of the same name is all right."""
        if not problem or self._was_moved(path):
            self._wrong.pop(key, None)
        elif len(self._wrong) < _MAX_KEPT or key in self._wrong:
            self._wrong[key] = _short(f"{show(path or b'/')}: {problem}")

    def _was_moved(self, path: bytes) -> bool:
        """Tell whether a path lies below one that a later entry took: what lay there is not in the tree."""
        end = path.rfind(b"/") if self._moved else -1
        while end > 0 and path[:end] not in self._moved:
            end = path.rfind(b"/", 0, end)
        return end > 0

    def _directory(self, path: bytes) -> tuple[int, int] | None:
        held = self._held.get(path)
        if held is not None:
            return held
        try:
            fd = paths.open_in_root(self._root_fd, path or b".", os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return None
        if len(self._held) >= _HELD:
            self.close()
        self._held[path] = fd, os.fstat(fd).st_ino
        return self._held[path]

    def _add(self, path: bytes) -> None:
        """Say that what lies at a path, and the directories on the way, may be there without an entry."""
        while path and path not in self._added:
            self._added.add(path)
            parent, _, name = path.rpartition(b"/")
            held = self._directory(parent)
            if held is not None:
                self._seen.add((held[1], name))
            path = parent

    def _no_whiteout(self, path: bytes) -> str:
        parent, _, name = path.rpartition(b"/")
        held = self._directory(parent)
        try:
            if held is not None and is_whiteout(os.stat(name, dir_fd=held[0], follow_symlinks=False)):
                self._seen.add((held[1], name))
                return ""
        except FileNotFoundError:
            pass
        return "it is not deleted, as the layer wants it"

    def _differs(self, entry: tar.Entry, dir_fd: int, name: bytes) -> str:
        try:
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return "it is missing"
        if entry.kind == tar.HARD_LINK:
            return self._differs_link(entry, info)
        kind = _KINDS[entry.kind]
        if stat.S_IFMT(info.st_mode) != kind:
            return "it is of another type"
        if (info.st_uid, info.st_gid) != (entry.uid, entry.gid):
            return f"its owner is {info.st_uid}:{info.st_gid} instead of {entry.uid}:{entry.gid}"
        if kind != stat.S_IFLNK and info.st_mode & _MASK != entry.mode:
            return f"its mode is {info.st_mode & _MASK:o} instead of {entry.mode:o}"
        if kind == stat.S_IFREG and info.st_size != entry.size:
            return f"it has {info.st_size} bytes instead of {entry.size}"
        if not _is_time(info.st_mtime_ns, times(entry)[1]):
            return f"its time is {info.st_mtime_ns} ns instead of {times(entry)[1]} ns"
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and info.st_rdev != os.makedev(*entry.device):
            return "it is another device"
        if kind == stat.S_IFLNK and os.readlink(name, dir_fd=dir_fd) != entry.link:
            return "it leads elsewhere"
        return self._differs_xattrs(entry, files.fd_path(dir_fd, name)) if entry.xattrs else ""

    def _differs_link(self, entry: tar.Entry, info: os.stat_result) -> str:
        if place(entry.path, self._aliases) in self._from_below:
            return ""
        target = place(entry.link, self._aliases)
        parent, _, base = target.rpartition(b"/")
        if target in self._moved or self._was_moved(target):
            return ""  # its name belongs to a later entry, while this one still is to what it had
        held = self._directory(parent)
        try:
            if held and os.stat(base, dir_fd=held[0], follow_symlinks=False).st_ino == info.st_ino:
                return ""
        except FileNotFoundError:
            pass
        return f"it is no link to {show(target)}"

    def _differs_xattrs(self, entry: tar.Entry, path: bytes) -> str:
        there = dict(files.list_xattrs(path))
        for name, value in entry.xattrs.items():
            if not is_kept(name):
                continue
            found = there.get(os.fsdecode(name))
            if found is None and name == MUST_HAVE:
                return "its capabilities are missing"
            if found is not None and found != value:
                return f"its attribute {show(name)} is another"
        return ""

    def _extras(self) -> Iterator[str]:
        """Walk the tree for names that nobody put there, and for wrong marks of opaque directories."""
        todo = [b""]
        while todo:
            path = todo.pop()
            held = self._directory(path)
            if held is None:
                continue
            inode = held[1]
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held[0])
            try:
                with os.scandir(fd) as entries:
                    found = [
                        (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries
                    ]
                if inode != self._root_ino and path not in self._moved:
                    yield from self._opaque_problem(fd, inode, path)
            finally:
                os.close(fd)
            for name, is_dir in found:
                whole = path + b"/" + name if path else name
                if (inode, name) not in self._seen:
                    yield f"{show(whole)}: it belongs to no entry of the layer"
                elif is_dir:
                    if (inode, name) in self._whiteouts:
                        self._opaque.add(os.stat(name, dir_fd=held[0], follow_symlinks=False).st_ino)
                    todo.append(whole)

    def _opaque_problem(self, fd: int, inode: int, path: bytes) -> Iterator[str]:
        is_opaque = any(name == OPAQUE.decode() and value == b"y" for name, value in files.list_xattrs(fd))
        if is_opaque != (inode in self._opaque):
            yield f"{show(path)}: it {'hides' if is_opaque else 'does not hide'} what lies below"


def _short(problem: str) -> str:
    return problem if len(problem) <= _MAX_LENGTH else f"{problem[:_MAX_LENGTH]}…"


def _is_time(found_ns: int, wanted_ns: int) -> bool:
    """Tell whether a time is what was set, as far as a file system can keep it: some know only 32 bits."""
    seconds = wanted_ns // _SECOND_NS
    return found_ns in (wanted_ns, seconds * _SECOND_NS) or not 0 <= seconds < 1 << 31
