"""docs/hostile.md and hack/mutations.toml name tests and pieces of code; they must exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`((?:hostile|socket)/\w+\.py)::(\w+)`", (ROOT / "docs/hostile.md").read_text())
MUTATIONS = tomllib.loads((ROOT / "hack/mutations.toml").read_text())["mutation"]


def has_test(file: Path, name: str) -> bool:
    return re.search(rf"^(?:async )?def {name}\(", file.read_text(), re.MULTILINE) is not None


def test_every_named_test_is_there() -> None:
    assert NAMED
    assert [each for each in NAMED if not has_test(ROOT / "tests/integration" / each[0], each[1])] == []


def test_every_hostile_test_is_named() -> None:
    for file in (ROOT / "tests/integration/hostile").glob("test_*.py"):
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE):
            if name != "test_the_daemon_is_odd":
                assert (f"hostile/{file.name}", name) in NAMED


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[each["name"] for each in MUTATIONS])
def test_every_protection_is_where_it_is_taken_out(mutation: dict[str, list[dict[str, str]]]) -> None:
    for edit in mutation["edit"]:
        assert (ROOT / edit["file"]).read_text().count(edit["old"]) == 1
    for test in mutation["tests"]:
        file, _, name = str(test).partition("::")
        assert has_test(ROOT / file, name)
