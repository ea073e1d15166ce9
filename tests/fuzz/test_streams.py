from __future__ import annotations

import pytest

from tests.fuzz import streams

CHECKS = [check.__name__ for _, check in streams.CASES]


@pytest.mark.parametrize("case", range(len(CHECKS)), ids=CHECKS)
def test_mistakes_of_clients_are_borne(case: int) -> None:
    for seed in range(150):
        streams.run_case(case, seed)
