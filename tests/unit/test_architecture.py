"""ARCHITECTURE.md names places; they must exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_place_that_the_map_names_exists() -> None:
    table = ROOT.joinpath("ARCHITECTURE.md").read_text().split("## Where is the code")[1].split("\n## ")[0]
    places = re.findall(r"`((?:shim|proto)/[^`]*)`", table)
    assert len(places) > 10
    assert [place for place in places if not (ROOT / place).exists()] == []
