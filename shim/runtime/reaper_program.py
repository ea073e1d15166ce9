"""The program of a pod's init: a few instructions, in an ELF file of 129 bytes, that sleep for ever.

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

# loop: mov $34, %eax (pause); syscall; jmp loop
_X86_64: Final = b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"

_MACHINES: Final = {"x86_64": (_EM_X86_64, _X86_64)}


def for_machine(machine: str) -> bytes | None:
    """Return the executable for a machine as uname(2) names it; None if there is none for it. Pure."""
    known = _MACHINES.get(machine)
    if known is None:
        return None
    number, code = known
    headers = _FILE_HEADER.size + _PROGRAM_HEADER.size
    size = headers + len(code)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bit, little-endian, version 1
    start = _ADDRESS + headers
    file_header = _FILE_HEADER.pack(
        *(identity, _ET_EXEC, number, 1, start, _FILE_HEADER.size, 0, 0),
        *(_FILE_HEADER.size, _PROGRAM_HEADER.size, 1, 0, 0, 0),
    )
    segment = _PROGRAM_HEADER.pack(_PT_LOAD, _READ_EXECUTE, 0, _ADDRESS, _ADDRESS, size, size, 4096)
    return file_header + segment + code
