import pytest

from shim.cgroups import device_plan
from shim.errors import InvalidArgument
from shim.model.cgroup import ALLOW_ALL, DeviceRule

NULL = DeviceRule(True, "c", 1, 3)


def test_version_1_denies_all_and_allows_each() -> None:
    rules = (DeviceRule(True, "b", access="m"), NULL, DeviceRule(True, "c", 136))
    assert device_plan.plan_v1(rules) == [
        ("devices", "devices.deny", "a"),
        ("devices", "devices.allow", "b *:* m"),
        ("devices", "devices.allow", "c 1:3 rwm"),
        ("devices", "devices.allow", "c 136:* rwm"),
    ]


def test_without_rules_all_is_denied() -> None:
    assert device_plan.plan_v1(()) == [("devices", "devices.deny", "a")]
    assert device_plan.plan_v2(())


@pytest.mark.parametrize("rules", [ALLOW_ALL, (*ALLOW_ALL, NULL), (NULL, DeviceRule(False, "a"), *ALLOW_ALL)])
def test_where_all_is_allowed_nothing_is_done(rules: tuple[DeviceRule, ...]) -> None:
    assert device_plan.plan_v1(rules) == []
    assert device_plan.plan_v2(rules) == b""


def test_permissions_for_one_device_add_up() -> None:
    read, write = DeviceRule(True, "c", 1, 3, "r"), DeviceRule(True, "c", 1, 3, "w")
    assert device_plan.in_force((read, write, read)) == (DeviceRule(True, "c", 1, 3, "rw"),)


def test_what_a_later_rule_makes_void_is_left_out() -> None:
    deny_all = DeviceRule(False, "a")
    assert device_plan.in_force((NULL, deny_all)) == ()
    assert device_plan.in_force((deny_all, NULL)) == (NULL,)
    assert device_plan.in_force((NULL, *ALLOW_ALL)) == ALLOW_ALL


def test_version_1_has_no_exceptions() -> None:
    rules = (*ALLOW_ALL, DeviceRule(False, "c", 1, 3))
    with pytest.raises(InvalidArgument, match="c 1:3 rwm"):
        device_plan.plan_v1(rules)
    assert device_plan.plan_v2(rules)
