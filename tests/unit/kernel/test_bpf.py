import errno
import struct

import pytest

from shim.errors import KernelError
from shim.kernel import bpf

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def test_what_is_no_program_is_refused() -> None:
    """With the verifier's words where there is the right to have it verified."""
    with pytest.raises(KernelError) as caught:
        bpf.load_device_program(EXIT)
    assert caught.value.syscall == "bpf PROG_LOAD"
    assert caught.value.errno != errno.EACCES or "R0 !read_ok" in str(caught.value)


def test_a_cgroup_that_is_not_there_is_named() -> None:
    with pytest.raises(KernelError, match="/nowhere"):
        bpf.attach_to_cgroup(0, "/nowhere")
