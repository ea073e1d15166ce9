"""BPF programs on cgroups (bpf(2)): loading one that judges uses of devices, and attaching it.

Source: kernel, include/uapi/linux/bpf.h, union bpf_attr; Documentation/admin-guide/cgroup-v2.rst, "Device
controller".
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from typing import Final

from shim.errors import KernelError
from shim.kernel import libc

_PROG_LOAD: Final = 5
_PROG_ATTACH: Final = 8
_TYPE_CGROUP_DEVICE: Final = 15
_ATTACH_CGROUP_DEVICE: Final = 6
_ALLOW_MULTI: Final = 2

_INSTRUCTION_BYTES: Final = 8
_LOG_BYTES: Final = 1 << 16
_LOG_SHOWN: Final = 400
_NAME: Final = b"cri_shim_device"

# prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name
_LOAD: Final = struct.Struct("=IIQQIIQII16s")
# target_fd, attach_bpf_fd, attach_type, attach_flags
_ATTACH: Final = struct.Struct("=IIII")


def load_device_program(program: bytes) -> int:
    """Return the descriptor of a loaded BPF_PROG_TYPE_CGROUP_DEVICE; close-on-exec, as the kernel makes it.

    Raises:
        KernelError: the kernel has no such programs (EINVAL), gives no right to (EPERM), or the verifier
            refuses this one; then the end of what it says is in the error.
    """
    try:
        return _load(program, None)
    except KernelError as error:
        if error.errno == errno.EPERM and _raise_locked_memory():
            return _load(program, None)
        if error.errno not in (errno.EACCES, errno.EINVAL):
            raise
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return _load(program, log)
    except KernelError as error:
        told = log.value.decode(errors="replace").strip()[-_LOG_SHOWN:]
        raise KernelError("bpf PROG_LOAD", error.errno or errno.EINVAL, told or None) from None


def attach_to_cgroup(program_fd: int, directory: str) -> None:
    """Attach a loaded program to a cgroup2 directory, beside programs that others may attach.

    From then on the cgroup holds it: the descriptor may be closed, the program goes with the cgroup.

    Raises:
        KernelError: no such cgroup, or the kernel refuses.
    """
    try:
        target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", error.errno or errno.EIO, directory) from error
    try:
        attributes = _ATTACH.pack(target, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
        libc.check(_bpf(_PROG_ATTACH, attributes), "bpf PROG_ATTACH", directory)
    finally:
        os.close(target)


def _load(program: bytes, log: ctypes.Array[ctypes.c_char] | None) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _LOAD.pack(
        _TYPE_CGROUP_DEVICE,
        len(program) // _INSTRUCTION_BYTES,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        0 if log is None else 1,
        0 if log is None else len(log),
        0 if log is None else ctypes.addressof(log),
        0,
        0,
        _NAME,
    )
    return libc.check(_bpf(_PROG_LOAD, attributes), "bpf PROG_LOAD")


def _bpf(command: int, attributes: bytes) -> int:
    size = len(attributes)
    return libc.syscall(libc.SYS_BPF, command, ctypes.create_string_buffer(attributes, size), size)


def _raise_locked_memory() -> bool:
    """Return whether the limit was in the way, perhaps: before Linux 5.11 programs count as locked memory."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return False
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return True
    return False
