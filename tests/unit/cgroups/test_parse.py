import pytest

from shim.cgroups import parse
from shim.model.stats import DeviceIo, Pressure, PressureLine


@pytest.mark.parametrize(
    ("text", "limit"), [(b"max\n", 0), (b"9223372036854771712\n", 0), (b"4096\n", 4096), (b"-1\n", 0)]
)
def test_limits(text: bytes, limit: int) -> None:
    assert parse.limit(text) == limit


def test_pressure_is_told_in_nanoseconds_and_percent() -> None:
    text = (
        b"some avg10=1.50 avg60=0.30 avg300=0.10 total=12345\n"
        b"full avg10=0.00 avg60=0.00 avg300=0.25 total=345\n"
    )
    some, full = PressureLine(12_345_000, 1.5, 0.3, 0.1), PressureLine(345_000, 0.0, 0.0, 0.25)
    assert parse.pressure(text) == Pressure(some, full)


def test_a_kernel_without_full_pressure_of_the_cpu_tells_of_none() -> None:
    found = parse.pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
    assert (found.some.total_ns, found.full.total_ns) == (7000, 0)


def test_devices_of_version_2() -> None:
    text = (
        b"254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"
        b"7:0 cost.usage=3 rbytes=512 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"
        b"259:0 \n"
    )
    assert parse.io_stat(text) == (
        DeviceIo(254, 0, 4096, 8192, 1, 2),
        DeviceIo(7, 0, 512, 0, 1, 0),
        DeviceIo(259, 0),
    )


def test_devices_of_version_1_are_put_together_from_two_files() -> None:
    amounts = b"254:0 Read 4096\n254:0 Write 8192\n254:0 Total 12288\n7:0 Read 512\nTotal 12800\n"
    counts = b"254:0 Read 1\n254:0 Write 2\nTotal 3\n"
    assert parse.blkio(amounts, counts) == (DeviceIo(254, 0, 4096, 8192, 1, 2), DeviceIo(7, 0, 512, 0, 0, 0))
    assert parse.blkio(b"Total 0\n", b"") == ()


@pytest.mark.parametrize(("kib", "name"), [(64, "64KB"), (2048, "2MB"), (1 << 20, "1GB"), (16 << 20, "16GB")])
def test_sizes_of_huge_pages_are_named_as_cgroup_files_are(kib: int, name: str) -> None:
    assert parse.page_size(kib) == name
