"""docs/fields.md against the messages of the CRI, and against the tests that it names."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shim._proto import api_pb2 as cri

ROOT = Path(__file__).parents[2]
MESSAGES = ("LinuxPodSandboxConfig", "LinuxContainerConfig", "Mount", "Device", "CDIDevice")
BAD_INPUT = ROOT / "tests/integration/socket/bad_fields.py"
NOTHING_TO_REFUSE = "any value is possible"


class Row(NamedTuple):
    """One line of the table."""

    field: str
    v1: str
    v2: str
    refused: str
    tests: str


def rows() -> list[Row]:
    found = []
    for line in (ROOT / "docs/fields.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and re.fullmatch(r"[A-Z]\w+\.\w+", cells[0]):
            found.append(Row(*cells))
    return found


def fields() -> Iterator[str]:
    """Yield every field of the messages and of those in them, as ``Message.field``."""
    todo, seen = [getattr(cri, name).DESCRIPTOR for name in MESSAGES], set()
    while todo:
        message = todo.pop()
        if message.name in seen:
            continue
        seen.add(message.name)
        for field in message.fields:
            yield f"{message.name}.{field.name}"
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                todo.append(field.message_type)


def tried() -> frozenset[str]:
    """Return the fields for which the tests of bad input have one."""
    spec = importlib.util.spec_from_file_location("bad_fields", BAD_INPUT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: frozenset[str] = module.FIELDS
    return found


def test_every_field_of_the_cri_is_told_of_once() -> None:
    assert sorted(row.field for row in rows()) == sorted(fields())


def test_every_row_says_something_and_names_tests_that_exist() -> None:
    for row in rows():
        assert all(row), row.field
        named = re.findall(r"`([^`]+\.py)::(\w+)`", row.tests)
        assert named, f"{row.field}: no test"
        for path, name in named:
            text = (ROOT / "tests" / path).read_text()
            assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{row.field}: {path}::{name}"


def test_bad_input_is_tried_for_every_field_that_can_have_one() -> None:
    refusing = {row.field for row in rows() if row.refused != NOTHING_TO_REFUSE}
    assert refusing == tried()
    assert {row.field for row in rows() if "bad input" in row.tests} == refusing
