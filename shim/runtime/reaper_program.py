"""The program of a pod's init: a few instructions, in an ELF file of 186 bytes, that sleep for ever.

An interpreter that sleeps would cost 3 MiB for each pod that shares its PID namespace, and would be a copy of
the supervisor's memory, which a container of the pod with SYS_PTRACE may read. There is nothing to do but to
be there: where SIGCHLD is ignored the kernel reaps orphans by itself (wait(2), NOTES).

Source: elf(5); the calling conventions of syscall(2).
"""

from __future__ import annotations

import struct
from typing import Final

_ADDRESS: Final = 0x10000
_EM_X86_64: Final = 62
_ET_EXEC: Final = 2
_PT_LOAD: Final = 1
_READ_EXECUTE: Final = 5

_FILE_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")

_HEADERS: Final = _FILE_HEADER.size + _PROGRAM_HEADER.size

# SIGCHLD is ignored by the program itself: an execve that changes the SELinux label may forget what was.
_ACTION: Final = struct.pack("<QQQQ", 1, 0, 0, 0)  # of rt_sigaction(2): SIG_IGN; no flags, restorer or mask

_X86_64: Final = b"".join(
    (
        b"\xb8\x0d\x00\x00\x00",  # mov $13, %eax (rt_sigaction)
        b"\xbf\x11\x00\x00\x00",  # mov $17, %edi (SIGCHLD)
        b"\xbe" + struct.pack("<I", _ADDRESS + _HEADERS),  # mov $_ACTION, %esi
        b"\x31\xd2",  # xor %edx, %edx
        b"\x41\xba\x08\x00\x00\x00",  # mov $8, %r10d
        b"\x0f\x05",  # syscall
        b"\xb8\x22\x00\x00\x00",  # loop: mov $34, %eax (pause)
        b"\x0f\x05",  # syscall
        b"\xeb\xf7",  # jmp loop
    )
)

_MACHINES: Final = {"x86_64": (_EM_X86_64, _X86_64)}


def for_machine(machine: str) -> bytes | None:
    """Return the executable for a machine as uname(2) names it; None if there is none for it. Pure."""
    known = _MACHINES.get(machine)
    if known is None:
        return None
    number, code = known
    size = _HEADERS + len(_ACTION) + len(code)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bit, little-endian, version 1
    start = _ADDRESS + _HEADERS + len(_ACTION)
    file_header = _FILE_HEADER.pack(
        *(identity, _ET_EXEC, number, 1, start, _FILE_HEADER.size, 0, 0),
        *(_FILE_HEADER.size, _PROGRAM_HEADER.size, 1, 0, 0, 0),
    )
    segment = _PROGRAM_HEADER.pack(_PT_LOAD, _READ_EXECUTE, 0, _ADDRESS, _ADDRESS, size, size, 4096)
    return file_header + segment + _ACTION + code
