"""Versions of the CNI specification."""

import pytest

from shim.network import cni_versions


@pytest.mark.parametrize(("version", "expected"), [("0.3.1", False), ("0.4.0", True), ("1.1.0", True)])
def test_del_gets_the_result_and_there_is_check_since_0_4_0(version: str, expected: bool) -> None:
    assert cni_versions.passes_result_to_del(version) is expected
    assert cni_versions.has_check(version) is expected


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [
        ({}, "1.1.0"),
        ({"a": None}, "1.1.0"),
        ({"a": {"1.0.0", "0.4.0"}, "b": {"1.1.0", "1.0.0"}}, "1.0.0"),
        ({"a": {"1.1.0"}, "b": {"0.4.0"}}, ""),
        ({"a": {"0.3.1"}}, ""),
    ],
)
def test_the_highest_that_everybody_speaks_is_chosen(
    supported: dict[str, set[str] | None], chosen: str
) -> None:
    assert cni_versions.choose(["0.4.0", "1.1.0", "1.0.0", "8.0.0"], supported) == chosen
