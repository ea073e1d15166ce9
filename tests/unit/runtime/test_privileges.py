"""Capabilities as asked."""

from __future__ import annotations

import pytest

from shim.errors import InvalidArgument
from shim.kernel import capabilities
from shim.model.security import Capabilities, Confinement, ContainerSecurity
from shim.runtime.privileges import DEFAULT, plan_capabilities, plan_labels

ALL = (1 << len(capabilities.NAMES)) - 1


def mask(*names: str) -> int:
    return sum(1 << capabilities.parse(name) for name in names)


def planned(
    available: int = ALL, privileged: bool = False, **asked: tuple[str, ...]
) -> tuple[int, int, tuple[str, ...]]:
    security = ContainerSecurity(privileged=privileged, capabilities=Capabilities(**asked))
    return plan_capabilities(security, available)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, mask(*DEFAULT)),
        ({"add": ("SYS_TIME",)}, mask(*DEFAULT, "SYS_TIME")),
        ({"drop": ("cap_net_raw",)}, mask(*DEFAULT) & ~mask("NET_RAW")),
        ({"add": ("ALL",)}, ALL),
        ({"drop": ("all",)}, 0),
        ({"add": ("KILL",), "drop": ("ALL",)}, mask("KILL")),
        ({"add": ("ALL",), "drop": ("SYS_ADMIN",)}, ALL & ~mask("SYS_ADMIN")),
        ({"add": ("ALL",), "drop": ("ALL",)}, 0),
        ({"add": ("KILL",), "drop": ("KILL",)}, mask(*DEFAULT) & ~mask("KILL")),
    ],
)
def test_what_is_added_and_dropped(asked: dict[str, tuple[str, ...]], expected: int) -> None:
    assert planned(**asked) == (expected, 0, ())


def test_ambient_ones_are_also_had() -> None:
    assert planned(drop=("ALL",), add_ambient=("KILL",)) == (mask("KILL"), mask("KILL"), ())
    assert planned(drop=("KILL",), add_ambient=("KILL",))[1] == 0


def test_what_the_node_lacks_is_named_only_if_it_was_asked_for() -> None:
    available = ALL & ~mask("SYS_RESOURCE", "CHOWN")
    got, _, missing = planned(available, add=("SYS_RESOURCE",))
    assert (got, missing) == (mask(*DEFAULT) & available, ("SYS_RESOURCE",))
    assert planned(available, add=("ALL",)) == (available, 0, ())
    assert planned(available, privileged=True) == (available, 0, ())


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="FLY"):
        planned(add=("FLY",))


def test_apparmor_has_attributes_of_its_own_where_modules_are_stacked() -> None:
    assert plan_labels(Confinement()) == ()
    (label,) = plan_labels(Confinement(apparmor="mine"))
    assert (label.candidates, label.text) == (("attr/apparmor/exec", "attr/exec"), "exec mine")
