from __future__ import annotations

from pathlib import Path

import pytest

from shim.kernel import libc, memory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_free_memory_goes_back_to_the_kernel() -> None:
    blocks = [bytearray(b"x" * 100_000) for _ in range(500)]
    last = blocks.pop()  # what is free lies below it, where the C library would keep it
    before = resident_bytes()
    del blocks
    memory.trim()
    assert before - resident_bytes() > 20_000_000
    assert last


def test_a_c_library_that_cannot_is_none_the_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "libc", object())
    memory.trim()
