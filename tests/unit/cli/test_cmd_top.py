from typing import Any

import pytest
from rich.console import Console

from shim._proto import api_pb2 as cri
from shim.cli.cmd_top import Meter, Row, ordered, table


def usage(at_ns: int, used_ns: int, nano_cores: int | None = None) -> Any:
    made = cri.CpuUsage(timestamp=at_ns, usage_core_nano_seconds=cri.UInt64Value(value=used_ns))
    if nano_cores is not None:
        made.usage_nano_cores.value = nano_cores
    return made


def test_use_is_what_was_used_between_two_looks() -> None:
    meter = Meter()
    assert meter.percent("a", usage(10**9, 0)) is None
    assert meter.percent("b", usage(10**9, 0, nano_cores=250_000_000)) == 25
    assert meter.percent("a", usage(3 * 10**9, 10**9)) == 50
    assert meter.percent("a", usage(3 * 10**9, 10**9, nano_cores=5_000_000)) == 0.5  # the same reading again


ROWS = [
    Row("d/a", "x", "1", "running", 0, 5.0, 100, 3),
    Row("d/b", "y", "2", "running", 1, 50.0, 10, 2),
    Row("d/c", "z", "3", "exited", 0, None, 0, 9),
]


@pytest.mark.parametrize(
    ("sort", "names"), [("cpu", "yxz"), ("memory", "xyz"), ("disk", "zxy"), ("name", "xyz")]
)
def test_order(sort: str, names: str) -> None:
    assert "".join(row.name for row in ordered(ROWS, sort)) == names


def test_the_table_shows_what_is_known() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(ROWS, "cpu"))
    text = console.export_text()
    console.file.close()
    assert "3 pods, 3 containers" in text
    assert [line.split()[:2] for line in text.splitlines()[2:5]] == [["d/b", "y"], ["d/a", "x"], ["d/c", "z"]]
    assert "50.0" in text


def test_a_meter_forgets_what_is_gone() -> None:
    meter = Meter()
    for number in range(3):
        meter.percent(f"c{number}", cri.CpuUsage(timestamp=1))
    meter.keep({"c1"})
    assert list(meter._before) == ["c1"]
