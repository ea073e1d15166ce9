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


def test_the_kernel_says_the_same_as_proc() -> None:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert capabilities.last_cap() == int(file.read())
    with open("/proc/self/status") as file:
        bounding = next(line.split()[1] for line in file if line.startswith("CapBnd:"))
    assert capabilities.bounding_set() == int(bounding, 16)
    assert capabilities.bounding_set(among=0b1010) == int(bounding, 16) & 0b1010
