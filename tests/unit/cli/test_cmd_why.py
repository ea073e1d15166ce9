from shim._proto import timeline_pb2 as wire
from shim.cli.cmd_why import format_entry

STAGES = [
    wire.Stage(name="files", took_us=1500),
    wire.Stage(name="network", depth=1, took_us=-1, failed=True),
]


def test_a_failure_shows_its_stages() -> None:
    entry = wire.Entry(at_ns=10**18, what="RunPodSandbox", text="no", took_us=2500, times=3, stages=STAGES)
    head, *rest = format_entry(entry, all_stages=False)
    assert head.endswith("RunPodSandbox 2.5 ms (3 times): no")
    assert "failed" in head
    assert rest[0].split() == ["1.5", "ms", "files"]
    assert "not ended" in rest[1]


def test_what_went_well_is_one_line_unless_more_is_asked_for() -> None:
    entry = wire.Entry(at_ns=10**18, what="exit", ok=True, stages=STAGES)
    assert len(format_entry(entry, all_stages=False)) == 1
    assert len(format_entry(entry, all_stages=True)) == 3
