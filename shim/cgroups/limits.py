"""Writing the limits of a cgroup: all of them, or those that were."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable
from typing import Final

from shim.cgroups.hierarchy import Hierarchy
from shim.cgroups.plan import Write
from shim.errors import FailedPrecondition, InvalidArgument, KernelError
from shim.kernel import cgroupfs

log = logging.getLogger(__name__)

# Limits that a kernel may lack without any harm to the container: no swap accounting, no reserved huge pages.
_OPTIONAL: Final = ("memory.memsw.limit_in_bytes", "memory.swap.max")
_RESERVED: Final = ".rsvd."
_HUGE: Final = "hugetlb"
_NOT_TAKEN: Final = (errno.EINVAL, errno.ERANGE)


def apply(h: Hierarchy, path: str, writes: Iterable[Write]) -> None:
    """Write limits in order.

    Raises:
        InvalidArgument: the kernel does not take a value. FailedPrecondition: the node has no such limit.
        KernelError: it cannot be written.
    """
    again: list[Write] = []
    for write in writes:
        try:
            _write(h, path, write)
        except InvalidArgument:
            # A new period with the old quota may be more than the parent has: it fits after the quota.
            if write[1] != "cpu.cfs_period_us":
                raise
            again.append(write)
    for write in again:
        _write(h, path, write)


def replace(
    h: Hierarchy, path: str, writes: Iterable[Write], tell: Callable[[], None] = lambda: None
) -> None:
    """Write limits in order; if one is refused, those written before get back the values that they had.

    Args:
        h: where cgroups are.
        path: of the cgroup.
        writes: what to write.
        tell: tells somebody else of it; where that fails, too, nothing has changed.

    Raises:
        InvalidArgument, FailedPrecondition, KernelError: as ``apply``, or what ``tell`` raises; nothing has
            changed then.
    """
    writes = list(writes)
    before = [(write, _read(h, path, write)) for write in writes]
    try:
        apply(h, path, writes)
        tell()
    except BaseException:
        # The other way round: what could not be lowered before another was can be raised after it.
        for (controller, name, _), value in reversed(before):
            if value is not None:
                _restore(h, path, (controller, name, value))
        raise


def _read(h: Hierarchy, path: str, write: Write) -> str | None:
    """Return what a file says; None for one that cannot be read, so that it cannot be restored either."""
    controller, name, _ = write
    directory = h.directory(controller, path)
    if directory is None:
        return None
    with contextlib.suppress(KernelError):
        return cgroupfs.read(os.path.join(directory, name))
    return None


def _restore(h: Hierarchy, path: str, write: Write) -> None:
    controller, name, text = write
    directory = h.directory(controller, path)
    if directory is None:
        return
    for line in text.splitlines() or [""]:  # an empty line gives back what the parent has
        try:
            cgroupfs.write(os.path.join(directory, name), line + "\n")
        except KernelError as error:
            log.warning("%s of cgroup %s is not what it was: %s", name, path, error)


def _write(h: Hierarchy, path: str, write: Write) -> None:
    controller, name, value = write
    directory = h.directory(controller, path)
    if directory is None:
        if controller == _HUGE:
            log.debug("cannot set %s: this node has no cgroup controller for huge pages", name)
            return
        raise FailedPrecondition(f"cannot set {name}: this node has no cgroup controller {controller!r}")
    try:
        cgroupfs.write(os.path.join(directory, name), value)
    except KernelError as error:
        if error.errno == errno.ENOENT and os.path.isdir(directory):
            _missing(directory, name)
        elif error.errno in _NOT_TAKEN:
            raise InvalidArgument(f"the kernel does not take {value!r} for {name}") from None
        elif error.errno == errno.EBUSY:
            raise FailedPrecondition(f"{name} cannot be {value} now: more is in use") from None
        else:
            raise


def _missing(directory: str, name: str) -> None:
    """Pass over a file that a kernel may lack; refuse for another."""
    if name in _OPTIONAL or _RESERVED in name:
        return
    if not name.startswith(_HUGE):
        raise FailedPrecondition(f"cannot set {name}: this kernel, or the parent cgroup, does not have it")
    suffix = name.partition(".")[2].partition(".")[2]
    sizes = sorted(
        each.split(".")[1]
        for each in os.listdir(directory)
        if each.startswith(_HUGE) and each.endswith(suffix) and _RESERVED not in each
    )
    if sizes:
        raise InvalidArgument(f"cannot set {name}: this node has huge pages of {', '.join(sizes)}")
