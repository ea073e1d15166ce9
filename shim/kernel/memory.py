"""Memory that the allocator keeps."""

from __future__ import annotations

import contextlib

from shim.kernel import libc


def trim() -> None:
    """Give free memory back to the kernel, as far as the C library can (malloc_trim(3))."""
    with contextlib.suppress(AttributeError):  # musl has none, and keeps less
        libc.libc.malloc_trim(0)
