import errno

import pytest

from shim.errors import KernelError
from shim.kernel import mount


def test_error_names_syscall_and_path() -> None:
    with pytest.raises(KernelError) as caught:
        mount.mount("none", "/nonexistent/nowhere", "nofs")
    assert caught.value.syscall == "mount"
    assert caught.value.filename == "/nonexistent/nowhere"
    assert caught.value.errno in (errno.EPERM, errno.ENOENT, errno.ENODEV)
