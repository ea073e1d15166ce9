from pathlib import Path

from shim.services.log_usage import LogUsage, disk_usage


def test_rotated_logs_count_and_the_logs_of_others_do_not(tmp_path: Path) -> None:
    for name in ("0.log", "0.log.20260101-101010", "0.log.20260101-111010.gz", "1.log", "0.logx"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    used, inodes = disk_usage(str(tmp_path / "0.log"))
    blocks = sum(path.stat().st_blocks for path in tmp_path.glob("0.log*") if path.name != "0.logx")
    assert (used, inodes) == (blocks * 512, 3)


def test_what_is_not_there_takes_nothing(tmp_path: Path) -> None:
    usage = LogUsage()
    usage.measure("a", str(tmp_path / "no" / "0.log"))
    usage.measure("b", "")
    assert (usage.get("a"), usage.get("b"), usage.get("c")) == ((0, 0), (0, 0), (0, 0))


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "0.log").write_bytes(b"x")
    usage = LogUsage()
    usage.measure("a", str(tmp_path / "0.log"))
    assert usage.get("a")[1] == 1
    usage.keep(set())
    assert usage.get("a") == (0, 0)
