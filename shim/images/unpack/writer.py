"""Entries of a layer's archive become files in overlay form, below one descriptor and nowhere else.

Overlay form (kernel documentation, overlayfs): a deleted name is a character device 0/0, a directory that
hides the one below has ``trusted.overlay.opaque``. Whiteouts come as in the OCI image specification, "Layer":
a name that begins with ``.wh.``. Directories get their owner, mode and times at the very end, so that nothing
that is done inside them counts.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from shim.errors import InvalidArgument
from shim.images.unpack import record, tar
from shim.images.unpack.attributes import place, set_xattrs, show, times
from shim.images.unpack.content import Content
from shim.images.unpack.directories import Directories, is_whiteout
from shim.images.unpack.limits import Limits
from shim.images.unpack.meter import Meter
from shim.kernel import files, paths

WHITEOUT: Final = b".wh."
AUFS_META: Final = b".wh..wh."
OPAQUE_MARK: Final = b".wh..wh..opq"
_MAX_MAJOR: Final = (1 << 12) - 1
_MAX_MINOR: Final = (1 << 20) - 1
_MAX_ID: Final = (1 << 32) - 2
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES: Final = {
    tar.CHAR_DEVICE: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.FIFO: stat.S_IFIFO,
}


@dataclass(slots=True)
class Summary:
    """What was written. Paths are relative to the layer, clean.

    Attributes:
        made: directories that were made for what lies in them; see ``Directories``.
        implied: those of them that no entry describes, and that show those of the layers below.
        links: hard links (new, target) whose target only a lower layer can have.
        root_described: the archive has an entry for the layer's root itself.
        tangled: an entry took a name that was another's, after entries went where links led: nobody can tell
            any more where everything is.
    """

    used_bytes: int = 0
    inodes: int = 0
    made: list[bytes] = field(default_factory=list)
    implied: list[bytes] = field(default_factory=list)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    opaque_root: bool = False
    root_described: bool = False
    tangled: bool = False
    displaced: list[record.Displaced] = field(default_factory=list)


class LayerWriter:
    """Carries out the events of one archive. The process' umask must be 0.

    Args:
        layer_fd: the directory of the layer; ``fs`` in it is filled, ``displaced`` made when needed.
        keep: the record that the rest of the stream goes to.
        limits: what the layer may take.
        aliases: directory that a lower layer has as a link -> where that leads; both clean.
        meter: is shown how far it is.
    """

    def __init__(
        self,
        layer_fd: int,
        keep: record.RecordWriter,
        limits: Limits,
        aliases: Mapping[bytes, bytes],
        meter: Meter,
    ) -> None:
        self._layer_fd = layer_fd
        self._root_fd = os.open("fs", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=layer_fd)
        self._record = keep
        self._limits = limits
        self._aliases = aliases
        self._meter = meter
        self._dirs = Directories(self._root_fd, limits.take_implied)
        self._described: dict[bytes, tar.Entry] = {}
        self._summary = Summary()
        self._content = Content(keep)

    def write(self, events: list[tar.Event]) -> None:
        """Do what the events say, in order."""
        for event in events:
            if isinstance(event, tar.Raw):
                self._record.raw(event.data)
            elif isinstance(event, tar.Data):
                self._content.write(event.data)
            else:
                self._begin(event)
            # What of a large file is still to come takes no room yet.
            self._meter.show(self._summary.used_bytes - self._content.missing_bytes, self._summary.inodes)

    def finish(self) -> Summary:
        """Give directories what their entries said; return the summary."""
        described: set[int] = set()
        for path, entry in self._described.items():
            fd = paths.open_in_root(self._root_fd, path or b".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=times(entry))
                described.add(os.fstat(fd).st_ino)
            finally:
                os.close(fd)
            self._meter.show(self._summary.used_bytes, self._summary.inodes)
        summary = self._summary
        summary.made = sorted(self._dirs.implied)
        summary.implied = [path for path in summary.made if self._takes_after(path, described)]
        summary.opaque_root = b"" in self._dirs.opaque
        summary.root_described = b"" in self._described
        summary.inodes += len(self._dirs.implied | self._described.keys())
        return summary

    def _takes_after(self, path: bytes, described: set[int]) -> bool:
        """Tell whether an implied directory is to be like the one below; an entry may name it by a link."""
        self._meter.move()
        if self._dirs.hides(path):
            return False
        try:
            fd = paths.open_in_root(self._root_fd, path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False  # moved away by a later entry that reached it through a link
            raise
        try:
            return os.fstat(fd).st_ino not in described
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close every descriptor; safe at any time."""
        self._content.close()
        self._dirs.close()
        os.close(self._root_fd)

    def _begin(self, entry: tar.Entry) -> None:
        self._limits.take_entry()
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise InvalidArgument(f"malformed layer: {show(entry.path)} has owner {entry.uid}:{entry.gid}")
        path = place(entry.path, self._aliases)
        parent, _, name = path.rpartition(b"/")
        self._content.expect(entry.stored)
        if not path:
            self._root(entry)
        elif name.startswith(WHITEOUT):
            self._whiteout(parent, name)
        elif not path.startswith(AUFS_META):
            self._make(entry, path, parent, name)

    def _root(self, entry: tar.Entry) -> None:
        if entry.kind != tar.DIRECTORY:
            raise InvalidArgument(f"malformed layer: entry {show(entry.path)} would replace the root")
        self._described[b""] = entry
        set_xattrs(files.fd_path(self._root_fd, b"."), entry)

    def _make(self, entry: tar.Entry, path: bytes, parent: bytes, name: bytes) -> None:
        uncovered = False
        for attempt in (0, 1):
            dir_fd = self._dirs.fd(parent)
            try:
                if entry.kind == tar.FILE:
                    self._file(entry, path, dir_fd, name)
                elif entry.kind == tar.DIRECTORY:
                    self._directory(entry, path, dir_fd, name)
                elif entry.kind == tar.HARD_LINK:
                    self._hard_link(entry, path, dir_fd, name)
                else:
                    self._node(entry, dir_fd, name)
            except FileExistsError:
                if attempt:
                    raise
                uncovered = self._displace(path, parent, name)
            else:
                break
        if uncovered and entry.kind == tar.DIRECTORY:
            # The archive deleted the name and makes it anew: what the layers below have stays hidden.
            self._dirs.set_opaque(path)

    def _file(self, entry: tar.Entry, path: bytes, dir_fd: int, name: bytes) -> None:
        if entry.size > entry.stored:
            self._limits.check_stream(entry.size)  # sparse: it takes nothing here, but whoever copies it
        fd = os.open(name, _CREATE, entry.mode & 0o777, dir_fd=dir_fd)
        self._summary.inodes += 1
        self._summary.used_bytes += (entry.stored + 4095) & ~4095
        self._content.begin(entry, path, fd)

    def _directory(self, entry: tar.Entry, path: bytes, dir_fd: int, name: bytes) -> None:
        try:
            # Modes come at the end; setgid now would give its group to everything made inside.
            os.mkdir(name, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                raise
        self._described[path] = entry
        if entry.xattrs:
            set_xattrs(files.fd_path(dir_fd, name), entry)

    def _hard_link(self, entry: tar.Entry, path: bytes, dir_fd: int, name: bytes) -> None:
        target = place(entry.link, self._aliases)
        parent, _, base = target.rpartition(b"/")
        if target == path or not target:
            raise InvalidArgument(f"malformed layer: {show(entry.path)} is a hard link to itself")
        try:
            target_fd = paths.open_in_root(self._root_fd, parent or b".", os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            self._defer(path, target)
            return
        try:
            if is_whiteout(os.stat(base, dir_fd=target_fd, follow_symlinks=False)):
                raise InvalidArgument(f"malformed layer: {show(entry.path)} is a hard link to a deleted file")
            os.link(base, name, src_dir_fd=target_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            self._defer(path, target)
        finally:
            os.close(target_fd)

    def _defer(self, path: bytes, target: bytes) -> None:
        self._limits.take_deferred(path, target)
        self._summary.links.append((path, target))

    def _node(self, entry: tar.Entry, dir_fd: int, name: bytes) -> None:
        if entry.kind == tar.SYMLINK:
            if not entry.link:
                raise InvalidArgument(f"malformed layer: the link {show(entry.path)} has no target")
            if b"\0" in entry.link:
                raise InvalidArgument(f"malformed layer: the target of {show(entry.path)} has a NUL in it")
            os.symlink(entry.link, name, dir_fd=dir_fd)
        else:
            device = _device(entry) if entry.kind != tar.FIFO else 0
            os.mknod(name, _NODES[entry.kind] | entry.mode, device, dir_fd=dir_fd)
        self._summary.inodes += 1
        if entry.uid or entry.gid:
            os.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
            if entry.kind != tar.SYMLINK and entry.mode & 0o7000:
                os.chmod(files.fd_path(dir_fd, name), entry.mode)
        if entry.xattrs:
            set_xattrs(files.fd_path(dir_fd, name), entry)
        os.utime(name, ns=times(entry), dir_fd=dir_fd, follow_symlinks=False)

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        dir_fd = self._dirs.fd(parent)
        if name == OPAQUE_MARK:
            self._dirs.set_opaque(parent)
            return
        if name.startswith(AUFS_META):
            return  # bookkeeping of aufs, no file of the image
        gone = name[len(WHITEOUT) :]
        if gone in (b"", b".", b".."):
            raise InvalidArgument(f"malformed layer: the whiteout {show(name)} deletes nothing")
        try:
            os.mknod(gone, stat.S_IFCHR, 0, dir_fd=dir_fd)
            self._summary.inodes += 1
        except FileExistsError:
            # A whiteout is about the layers below; what this layer itself has under the name stays.
            if stat.S_ISDIR(os.stat(gone, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                self._dirs.set_opaque(parent + b"/" + gone if parent else gone)

    def _displace(self, path: bytes, parent: bytes, name: bytes) -> bool:
        """Move away what an earlier entry of this archive made under the same name; True if a whiteout.

        It is kept: the record refers to its content.
        """
        dir_fd = self._dirs.fd(parent)
        old = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if is_whiteout(old):
            os.unlink(name, dir_fd=dir_fd)
            return True
        self._summary.tangled |= self._dirs.went_through_links
        number = str(len(self._summary.displaced))
        if number == "0":
            os.mkdir("displaced", 0o700, dir_fd=self._layer_fd)
        os.rename(name, b"displaced/" + number.encode(), src_dir_fd=dir_fd, dst_dir_fd=self._layer_fd)
        self._summary.displaced.append((self._record.frames, path, number))
        self._dirs.forget()
        if stat.S_ISDIR(old.st_mode):
            self._forget(path)
        return False

    def _forget(self, path: bytes) -> None:
        """Drop what is known of a directory and all below it, which is not where it was."""
        self._limits.take_look(len(self._described) + len(self._dirs.implied))
        below = path + b"/"
        for known in [key for key in self._described if key == path or key.startswith(below)]:
            del self._described[known]
        self._dirs.implied = {key for key in self._dirs.implied if key != path and not key.startswith(below)}


def _device(entry: tar.Entry) -> int:
    major, minor = entry.device
    if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
        raise InvalidArgument(f"malformed layer: {show(entry.path)} is the device {major}:{minor}")
    return os.makedev(major, minor)
