from __future__ import annotations

import pytest

from tests.unit.streaming import fuzz


@pytest.mark.parametrize("case", range(len(fuzz.CASES)), ids=[check.__name__ for _, check in fuzz.CASES])
def test_mistakes_of_clients_are_borne(case: int) -> None:
    for seed in range(150):
        fuzz.run_case(case, seed)
