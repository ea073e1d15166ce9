"""Steps on the process itself, the last before execve: streams, limits, identity, privileges."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from dataclasses import dataclass
from typing import ClassVar, Final

from shim.errors import ExecFailed, InvalidArgument, KernelError
from shim.kernel import capabilities, paths, process, seccomp, tty
from shim.runtime import wire
from shim.runtime.context import Context
from shim.runtime.steps import Step, step

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Asked once, in the supervisor: the answer is in /sys, and what a container has there may be anything.
_PROCESSORS: Final = range(os.sysconf("SC_NPROCESSORS_CONF"))
_NO_DIRECTORY: Final = (errno.ELOOP, errno.ENOENT, errno.ENOTDIR)
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
_UNWANTED: Final = 128


@step
@dataclass(frozen=True, slots=True)
class Streams(Step):
    """Make the given streams (or the terminal) descriptors 0, 1 and 2, in a session of its own."""

    uid: int
    gid: int
    SAYS: ClassVar = "set up the standard streams"

    def execute(self, context: Context) -> None:
        """Give pipes to the user, so that /dev/stdout can be opened again."""
        os.setsid()
        if "terminal" in context.kept:
            slave = context.take("terminal")
            tty.set_controlling(slave)
            fds = (slave, slave, slave)
        else:
            fds = (context.fds["stdin"], context.fds["stdout"], context.fds["stderr"])
            for fd in fds:
                status = os.fstat(fd)
                if stat.S_ISFIFO(status.st_mode) and (status.st_uid, status.st_gid) != (self.uid, self.gid):
                    os.fchown(fd, self.uid, self.gid)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)


@step
@dataclass(frozen=True, slots=True)
class OomScore(Step):
    """Say how soon the OOM killer takes the process. Runs in: stage 1, the host's namespaces.

    It is written to a file of /proc, and what a container has there may be anything (CVE-2025-52881). The
    second stage inherits it.
    """

    adjustment: int
    SAYS: ClassVar = "set the OOM score"

    def execute(self, context: Context) -> None:
        """Set it; what this host's root may not do is told as a warning."""
        wanted = b"%d" % self.adjustment
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        is_ = os.read(fd, 16).strip()
        try:
            if is_ != wanted:
                os.pwrite(fd, wanted, 0)
        except PermissionError:
            context.warn(
                f"oom_score_adj is {int(is_)} instead of {self.adjustment}: CAP_SYS_RESOURCE is missing"
            )
        finally:
            os.close(fd)


@step
@dataclass(frozen=True, slots=True)
class Defaults(Step):
    """Give the process what a fresh one has, whatever the daemon was started with.

    Attributes:
        rlimits: tuples of (resource number, soft, hard).
        keyring: name of a new session keyring; empty for none.
    """

    rlimits: tuple[tuple[int, int, int], ...]
    keyring: str
    SAYS: ClassVar = "set limits and priorities"

    def execute(self, context: Context) -> None:
        """Set each; what this host's root may not do is told as a warning."""
        os.umask(0o022)
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        os.sched_setaffinity(0, _PROCESSORS)
        for number, soft, hard in self.rlimits:
            try:
                resource.setrlimit(number, (soft, hard))
            except (ValueError, PermissionError):
                _, ceiling = resource.getrlimit(number)
                resource.setrlimit(number, (soft if 0 <= soft <= ceiling else ceiling, ceiling))
                context.warn(f"limit {number} is {ceiling} instead of {hard}: CAP_SYS_RESOURCE is missing")
        try:
            process.reset_securebits()
        except KernelError as error:
            context.warn(f"the securebits that the daemon was started with stay: {error}")
        if self.keyring:
            _new_keyring(self.keyring, context)


def _new_keyring(name: str, context: Context) -> None:
    try:
        process.new_session_keyring(name)
    except KernelError as error:
        if error.errno != errno.ENOSYS:
            context.warn(f"no session keyring of its own: {error}")


@step
@dataclass(frozen=True, slots=True)
class Keyring(Step):
    """Give the process a session keyring that belongs to its own user namespace."""

    name: str
    SAYS: ClassVar = "make a session keyring"

    def execute(self, context: Context) -> None:
        """Make it."""
        _new_keyring(self.name, context)


@step
@dataclass(frozen=True, slots=True)
class EnterDirectory(Step):
    """Change to the working directory, made if it is missing; never one outside the root (CVE-2024-21626)."""

    path: str

    def describe(self) -> str:
        """Name it."""
        return f"change to the working directory {self.path}"

    def execute(self, context: Context) -> None:
        """Go there over no magic link, which could lead to what this process holds; ask where that is."""
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            directory = paths.mkdir_in_root(root, self.path)
        except KernelError as error:
            if error.errno not in _NO_DIRECTORY:
                raise
            raise InvalidArgument(
                f"working directory {self.path!r} is no directory of the container: {error.strerror}"
            ) from None
        finally:
            os.close(root)
        os.fchdir(directory)
        os.close(directory)
        try:
            os.getcwd()
        except FileNotFoundError:
            raise InvalidArgument(f"working directory {self.path!r} is not inside the container") from None


@step
@dataclass(frozen=True, slots=True)
class AwaitGo(Step):
    """Wait until the daemon says go; end where it lets go of its side instead."""

    SAYS: ClassVar = "wait for the go"

    def execute(self, context: Context) -> None:
        """Tell that all before is done, and read one byte."""
        wire.send(context.fds["sync"], {"type": "held"})
        if not os.read(context.fds["sync"], 1):
            os._exit(_UNWANTED)


@step
@dataclass(frozen=True, slots=True)
class Identity(Step):
    """Become the user, with exactly these capabilities, and no way to more.

    Attributes:
        capabilities: the bounding set, and what root has; bit N is capability N.
        ambient: what a user other than root keeps over execve.
        seccomp: hexadecimal BPF program; empty for none.
        seccomp_flags: of seccomp(2).
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int
    ambient: int
    no_new_privs: bool
    seccomp: str
    seccomp_flags: int = 0
    SAYS: ClassVar = "become the container's user"

    def execute(self, context: Context) -> None:
        """Do it in the only order that works: each later step lacks the right to an earlier one."""
        allowed = capabilities.bounding_set(self.capabilities)
        capabilities.drop_bounding(allowed)
        process.set_keep_capabilities(True)
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        if self.seccomp and not self.no_new_privs:
            # Loading a filter needs CAP_SYS_ADMIN or no_new_privs, so it cannot wait for the end.
            seccomp.load(bytes.fromhex(self.seccomp), self.seccomp_flags)
        os.setresuid(self.uid, self.uid, self.uid)
        process.set_keep_capabilities(False)
        ambient = self.ambient & allowed
        effective = allowed if self.uid == 0 else ambient
        capabilities.set_process(allowed if self.uid == 0 else ambient, effective, ambient)
        if ambient:
            capabilities.set_ambient(ambient)
        if self.no_new_privs:
            process.set_no_new_privs()
            if self.seccomp:
                seccomp.load(bytes.fromhex(self.seccomp), self.seccomp_flags)


@step
@dataclass(frozen=True, slots=True)
class Execute(Step):
    """Become the program. Text is decoded with surrogateescape: arguments and environment are bytes."""

    argv: tuple[str, ...]
    env: tuple[str, ...]

    def describe(self) -> str:
        """Name the program, never the environment."""
        return f"execute {self.argv[0]!r}"

    def execute(self, context: Context) -> None:
        """Look the program up as a shell does and call execve(2). Every other descriptor closes by itself."""
        environment = {}
        for entry in self.env:
            key, _, value = entry.partition("=")
            environment[os.fsencode(key)] = os.fsencode(value)
        path = os.fsdecode(environment.get(b"PATH", DEFAULT_PATH.encode()))
        program = find_program(self.argv[0], path)
        try:
            os.execve(program, [os.fsencode(argument) for argument in self.argv], environment)
        except OSError as error:
            code = _NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTABLE
            reason = (error.strerror or "").lower()
            raise ExecFailed(f"exec: {quoted(self.argv[0])}: {reason}", code) from None


def quoted(name: str) -> str:
    """Return a name in the double quotes that users of other runtimes know from this error."""
    return json.dumps(name, ensure_ascii=False)


def find_program(name: str, path: str) -> str:
    """Return where a program lies, by the container's own PATH.

    Raises:
        ExecFailed: 127 where there is none, 126 where there is one that may not be executed.
    """
    if "/" in name:
        return name
    denied = False
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            denied = True
    if denied:
        raise ExecFailed(f"exec: {quoted(name)}: permission denied", _NOT_EXECUTABLE)
    raise ExecFailed(f"exec: {quoted(name)}: executable file not found in $PATH", _NOT_FOUND)
