"""Addresses of a pod, the primary one first."""

import pytest

from shim.model.network import order_ips


@pytest.mark.parametrize(
    ("preference", "expected"),
    [
        ("ipv4", ("10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2")),
        ("ipv6", ("fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2")),
        ("cni", ("fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2")),
    ],
)
def test_the_primary_address_comes_first(preference: str, expected: tuple[str, ...]) -> None:
    assert order_ips(["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2"], preference) == expected


@pytest.mark.parametrize("preference", ["ipv4", "ipv6", "cni"])
def test_one_address_is_the_primary_one(preference: str) -> None:
    assert order_ips(["fd00::1"], preference) == ("fd00::1",)
    assert order_ips([], preference) == ()
