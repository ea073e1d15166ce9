"""Steps on namespaces and cgroups: join, make, pin."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from shim.errors import InvalidArgument, KernelError, NotFound
from shim.kernel import mount, namespaces, process
from shim.runtime import wire
from shim.runtime.context import Context
from shim.runtime.steps import Step, step

_DOTS_AND_SLASHES: Final = str.maketrans("./", "/.")
_SYSCTL_ERRORS: Final = {
    errno.ENOENT: "there is none",
    errno.EISDIR: "it is a group of them",
    errno.ENOTDIR: "there is none",
    errno.EINVAL: "it does not take this value",
    errno.ERANGE: "it does not take this value",
    errno.EACCES: "it belongs to the node, or cannot be changed",
    errno.EPERM: "it belongs to the node, or cannot be changed",
    errno.EOPNOTSUPP: "it cannot be changed",
}
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_TCP: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_IFREQ: Final = struct.Struct("16sH22x")


@step
@dataclass(frozen=True, slots=True)
class OpenCgroups(Step):
    """Open, as the host's root, what the second stage enters its cgroups by."""

    v1_tasks: tuple[str, ...]
    v2_dir: str
    SAYS: ClassVar = "open the cgroups"

    def execute(self, context: Context) -> None:
        """Keep a descriptor for each."""
        for index, path in enumerate(self.v1_tasks):
            context.keep(f"tasks {index}", os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        if self.v2_dir:
            context.cgroup_fd = os.open(self.v2_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@step
@dataclass(frozen=True, slots=True)
class EnterCgroup2(Step):
    """Join the cgroup of version 2, where the second stage is not born in it. Runs in: stage 1.

    This waits for a grace period of the kernel, some 8 ms.
    """

    SAYS: ClassVar = "enter the cgroup"

    def execute(self, context: Context) -> None:
        """Write 0, which stands for the writer."""
        if context.cgroup_fd is None:
            return
        fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=context.cgroup_fd)
        try:
            os.write(fd, b"0")
        except OSError as error:
            raise KernelError("write", error.errno or 0, "cgroup.procs") from error
        finally:
            os.close(fd)
        os.close(context.cgroup_fd)
        context.cgroup_fd = None


@step
@dataclass(frozen=True, slots=True)
class EnterV1Cgroups(Step):
    """Join the cgroups of version 1. Late: whatever comes after counts against the container's CPU quota."""

    count: int
    SAYS: ClassVar = "enter the cgroups"

    def execute(self, context: Context) -> None:
        """Write 0, which stands for the writer: moving one's own single thread waits for nobody."""
        for index in range(self.count):
            fd = context.take(f"tasks {index}")
            try:
                os.write(fd, b"0")
            except OSError as error:
                raise KernelError("write", error.errno or 0, f"tasks of v1 hierarchy {index}") from error
            finally:
                os.close(fd)


@step
@dataclass(frozen=True, slots=True)
class OpenNamespaces(Step):
    """Open pinned namespaces by host path, while the host's paths can still be seen.

    Attributes:
        pins: pairs of (kind, path).
    """

    pins: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        """Name the kinds."""
        return "open the pod's namespaces " + ", ".join(kind for kind, _ in self.pins)

    def execute(self, context: Context) -> None:
        """Keep a descriptor for each kind."""
        for kind, path in self.pins:
            context.keep(f"namespace {kind}", os.open(path, os.O_RDONLY | os.O_CLOEXEC))


@step
@dataclass(frozen=True, slots=True)
class JoinNamespaces(Step):
    """Join opened namespaces; a user namespace must come first, a pid namespace holds for children only."""

    kinds: tuple[str, ...]

    def describe(self) -> str:
        """Name the kinds."""
        return "join the namespaces " + ", ".join(self.kinds)

    def execute(self, context: Context) -> None:
        """Join each."""
        for kind in self.kinds:
            fd = context.take(f"namespace {kind}")
            namespaces.setns(fd, namespaces.KINDS[kind], f"{kind} namespace")
            os.close(fd)


@step
@dataclass(frozen=True, slots=True)
class Unshare(Step):
    """Make new namespaces."""

    kinds: tuple[str, ...]

    def describe(self) -> str:
        """Name the kinds."""
        return "make the namespaces " + ", ".join(self.kinds)

    def execute(self, context: Context) -> None:
        """Make them all at once."""
        namespaces.unshare(namespaces.flags_of(self.kinds))


@step
@dataclass(frozen=True, slots=True)
class JoinProcess(Step):
    """Join the namespaces of a running process, if it is still the one that was meant.

    Attributes:
        hold: whether ``JoinHeld`` comes later.
    """

    pid: int
    start_time: int
    kinds: tuple[str, ...]
    hold: bool = False
    SAYS: ClassVar = "join the container's namespaces"

    def execute(self, context: Context) -> None:
        """Hold the process, so that the pid cannot come to mean another, and join all at once."""
        pidfd = process.hold(self.pid, self.start_time)
        if pidfd is None:
            raise NotFound("process", str(self.pid))
        try:
            namespaces.setns(pidfd, namespaces.flags_of(self.kinds), f"pid {self.pid}")
        except KernelError as error:
            if error.errno == errno.ESRCH:  # it has ended, and its parent did not reap it yet
                raise NotFound("process", str(self.pid)) from None
            raise
        if self.hold:
            context.keep("process", pidfd)
        else:
            os.close(pidfd)


@step
@dataclass(frozen=True, slots=True)
class JoinHeld(Step):
    """Join more namespaces of the process that ``JoinProcess`` holds."""

    kinds: tuple[str, ...]
    SAYS: ClassVar = "join the container's namespaces"

    def execute(self, context: Context) -> None:
        """Join all at once."""
        pidfd = context.take("process")
        try:
            namespaces.setns(pidfd, namespaces.flags_of(self.kinds), "the container's process")
        except KernelError as error:
            if error.errno == errno.ESRCH:
                raise NotFound("process", "of the container") from None
            raise
        os.close(pidfd)


@step
@dataclass(frozen=True, slots=True)
class SetHostname(Step):
    """Name the new uts namespace."""

    hostname: str
    SAYS: ClassVar = "set the host name"

    def execute(self, context: Context) -> None:
        """Set it."""
        socket.sethostname(self.hostname)


@step
@dataclass(frozen=True, slots=True)
class WriteSysctl(Step):
    """Set one parameter of a new namespace; the plan has checked that it belongs to one.

    Attributes:
        name: with dots between its parts, and a slash for a dot in one, as sysctl(8) has it.
        uid: host id of root of the namespace that it belongs to: the kernel asks nothing else of some.
        optional: a kernel that does not have it is no error.
    """

    name: str
    value: str
    uid: int = 0
    optional: bool = False

    def describe(self) -> str:
        """Name it."""
        return f"set sysctl {self.name}"

    def execute(self, context: Context) -> None:
        """Write it."""
        path = "/proc/sys/" + self.name.translate(_DOTS_AND_SLASHES)
        if self.uid:
            os.seteuid(self.uid)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, os.fsencode(self.value))
            finally:
                os.close(fd)
        except OSError as error:
            if self.optional and isinstance(error, FileNotFoundError):
                return
            reason = _SYSCTL_ERRORS.get(error.errno or 0)
            if reason is not None:
                raise InvalidArgument(f"sysctl {self.name} cannot be {self.value!r}: {reason}") from None
            raise KernelError("write", error.errno or 0, path) from None
        finally:
            if self.uid:
                os.seteuid(0)


@step
@dataclass(frozen=True, slots=True)
class LoopbackUp(Step):
    """Bring up ``lo``; the kernel gives it 127.0.0.1 and ::1 by itself."""

    SAYS: ClassVar = "bring up the loopback interface"

    def execute(self, context: Context) -> None:
        """Set the flag by ioctl: netdevice(7)."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
            flags = _IFREQ.unpack(answer)[1]
            fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))


@step
@dataclass(frozen=True, slots=True)
class SendNetlink(Step):
    """Send the daemon a routing socket of the new network namespace, so that no thread of it ever joins."""

    SAYS: ClassVar = "hand up a netlink socket"

    def execute(self, context: Context) -> None:
        """Open and send it."""
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        ) as sock:
            sock.bind((0, 0))
            wire.send(context.fds["sync"], {"type": "fds", "names": ["netlink"]}, [sock.fileno()])


@step
@dataclass(frozen=True, slots=True)
class SendSockets(Step):
    """Send the daemon TCP sockets of this network namespace: a socket stays where it was made.

    Attributes:
        count: how many of each family; they are named ``inet 0``, ``inet6 0``, ``inet 1`` and so on. A node
            without IPv6 sends none of that.
    """

    count: int
    SAYS: ClassVar = "hand up sockets"

    def execute(self, context: Context) -> None:
        """Open and send them, one of each family at a time."""
        for number in range(self.count):
            opened: dict[str, socket.socket] = {}
            for name, family in (("inet", socket.AF_INET), ("inet6", socket.AF_INET6)):
                with contextlib.suppress(OSError) if opened else contextlib.nullcontext():
                    opened[f"{name} {number}"] = socket.socket(family, _TCP)
            fds = [sock.fileno() for sock in opened.values()]
            wire.send(context.fds["sync"], {"type": "fds", "names": list(opened)}, fds)
            for sock in opened.values():
                sock.close()


@step
@dataclass(frozen=True, slots=True)
class PinNamespace(Step):
    """Bind a namespace of this process to a file, so that it outlives the process.

    Attributes:
        source: its name below /proc/self/ns, such as ``net``.
        path: an empty file that the caller has made.
    """

    source: str
    path: str

    def describe(self) -> str:
        """Name both."""
        return f"pin the {self.source} namespace at {self.path}"

    def execute(self, context: Context) -> None:
        """Mount it."""
        mount.mount(f"/proc/self/ns/{self.source}", self.path, None, mount.MS_BIND)


@step
@dataclass(frozen=True, slots=True)
class MountShm(Step):
    """Mount the memory file system that the containers of a pod share as /dev/shm.

    Attributes:
        owner: host ids of the pod's root.
    """

    path: str
    size_bytes: int
    label: str = ""
    owner: tuple[int, int] = (0, 0)
    SAYS: ClassVar = "mount the pod's shared memory"

    def execute(self, context: Context) -> None:
        """Mount it."""
        flags = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
        uid, gid = self.owner
        label = f',context="{self.label}"' if self.label else ""
        options = f"mode=1777,size={self.size_bytes},uid={uid},gid={gid}{label}"
        mount.mount("shm", self.path, "tmpfs", flags, options)
