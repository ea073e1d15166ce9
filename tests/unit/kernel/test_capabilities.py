import pytest

from shim.errors import InvalidArgument
from shim.kernel import capabilities


@pytest.mark.parametrize("name", ["CAP_SYS_ADMIN", "sys_admin", "cap_sys_admin"])
def test_names_with_and_without_prefix_in_any_case(name: str) -> None:
    assert capabilities.parse(name) == 21


def test_an_unknown_name_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidArgument, match="CAP_NOPE"):
        capabilities.parse("CAP_NOPE")


def test_every_capability_of_this_kernel_has_a_name() -> None:
    assert capabilities.last_cap() < len(capabilities.NAMES)
