from pathlib import Path

from shim.model.timeline import Entry, StageTime
from shim.store.journal import Journal

ENTRY = Entry(
    10**18, "RunPodSandbox", ("a" * 64, "default/web"), "no address", False, "network", 1500,
    (StageTime("network", 0, 1400, True),), 1,
)  # fmt: skip


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"), 1 << 20)
    assert journal.load() == []
    journal.append([ENTRY])
    journal.append([Entry(2, "exit", ("b",))])
    assert Journal(str(tmp_path / "journal"), 1 << 20).load() == [ENTRY, Entry(2, "exit", ("b",))]
    assert (tmp_path / "journal/current").stat().st_mode & 0o777 == 0o600


def test_a_line_that_was_cut_or_is_of_another_version_is_left_out(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 1 << 20)
    journal.append([ENTRY])
    with (tmp_path / "current").open("ab") as file:
        file.write(b'{"version":2,"entry":{"at_ns":1,"what":"x","keys":[]}}\n\xff\xfe\n{"version":1,"ent')
    journal.append([ENTRY])
    assert journal.load() == [ENTRY, ENTRY]


def test_it_never_takes_more_than_it_may(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), 20_000)
    for number in range(1000):
        journal.append([Entry(number, "exit", ("k",), "x" * 50)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20_400
    kept = [entry.at_ns for entry in journal.load()]
    assert kept == list(range(kept[0], 1000))
    assert len(kept) > 50
