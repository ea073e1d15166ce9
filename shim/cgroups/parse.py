"""The formats of cgroup files (kernel: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst). Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

from shim.model.stats import DeviceIo, Pressure, PressureLine

# Version 1 says "no limit" with the largest number of whole pages; nothing real comes near.
NO_LIMIT: Final = 1 << 62
_V1_FIELDS: Final = (b"Readbytes", b"Writebytes", b"Readios", b"Writeios")
_V2_FIELDS: Final = (b"rbytes", b"wbytes", b"rios", b"wios")
_NOTHING: Final = PressureLine(0, 0.0, 0.0, 0.0)


def flat(data: bytes) -> dict[bytes, int]:
    """Return a flat keyed file, ``name number`` on each line."""
    parts = data.split()
    return dict(zip(parts[::2], map(int, parts[1::2]), strict=True))


def limit(data: bytes) -> int:
    """Return a limit; 0 for none."""
    value = data.strip()
    if value == b"max":
        return 0
    number = int(value)
    return number if 0 <= number < NO_LIMIT else 0


@functools.lru_cache(4096)
def pressure(data: bytes) -> Pressure:
    """Return a pressure file; old kernels have no ``full`` line for the CPU.

    Most cgroups wait for nothing and say the same, so what was parsed is kept.
    """
    lines: dict[bytes, PressureLine] = {}
    for line in data.splitlines():
        kind, *fields = line.split()
        ten, sixty, three_hundred, total_us = (field.partition(b"=")[2] for field in fields)
        lines[kind] = PressureLine(int(total_us) * 1000, float(ten), float(sixty), float(three_hundred))
    return Pressure(lines.get(b"some", _NOTHING), lines.get(b"full", _NOTHING))


def io_stat(data: bytes) -> tuple[DeviceIo, ...]:
    """Return ``io.stat`` of version 2; a device that nothing was read from or written to may be missing."""
    found = []
    for line in data.splitlines():
        device, *fields = line.split()
        major, colon, minor = device.partition(b":")
        if not colon:
            continue
        values = dict(field.split(b"=", 1) for field in fields if b"=" in field)
        numbers = {name: int(value) for name, value in values.items() if value.isdigit()}
        found.append(_device(major, minor, numbers, _V2_FIELDS))
    return tuple(found)


def blkio(amounts: bytes, counts: bytes) -> tuple[DeviceIo, ...]:
    """Return ``blkio.throttle.io_service_bytes`` and ``io_serviced`` of version 1, put together by device."""
    by_device: dict[bytes, dict[bytes, int]] = {}
    for suffix, data in ((b"bytes", amounts), (b"ios", counts)):
        for line in data.splitlines():
            parts = line.split()
            if len(parts) == 3 and b":" in parts[0]:
                by_device.setdefault(parts[0], {})[parts[1] + suffix] = int(parts[2])
    found = []
    for device, values in by_device.items():
        major, _, minor = device.partition(b":")
        found.append(_device(major, minor, values, _V1_FIELDS))
    return tuple(found)


def _device(major: bytes, minor: bytes, values: Mapping[bytes, int], names: tuple[bytes, ...]) -> DeviceIo:
    read_bytes, write_bytes, reads, writes = (values.get(name, 0) for name in names)
    return DeviceIo(int(major), int(minor), read_bytes, write_bytes, reads, writes)


def page_size(kib: int) -> str:
    """Return a size of huge pages as cgroup files are named: 2048 is ``2MB``."""
    for unit in ("KB", "MB"):
        if kib < 1024:
            return f"{kib}{unit}"
        kib //= 1024
    return f"{kib}GB"
