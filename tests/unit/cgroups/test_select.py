import pytest

from shim.cgroups import select, systemd
from shim.cgroups.driver import CgroupfsDriver
from shim.cgroups.hierarchy import Hierarchy
from shim.errors import FailedPrecondition

V2 = Hierarchy(unified="/sys/fs/cgroup")
HYBRID = Hierarchy({"memory": "/sys/fs/cgroup/memory"}, "/sys/fs/cgroup/unified")


@pytest.fixture(params=["answers", "is silent", "is absent"])
def init(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(systemd, "is_init", lambda: request.param != "is absent")
    silence = "systemd cannot be reached over D-Bus" if request.param == "is silent" else ""
    monkeypatch.setattr(systemd, "silence", lambda: silence)
    return str(request.param)


@pytest.mark.parametrize("hierarchy", [V2, HYBRID])
def test_auto_is_systemd_where_it_can_be_had(init: str, hierarchy: Hierarchy) -> None:
    found = select.driver("auto", hierarchy, "/cri-shim")
    can = init == "answers" and hierarchy is V2
    assert found.driver == ("systemd" if can else "cgroupfs")
    assert found.parent("") == ("/cri.slice/cri-shim.slice" if can else "/cri-shim")


def test_systemd_that_cannot_be_had_is_refused_with_the_reason(init: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"version 1|not the first process"):
        select.driver("systemd", HYBRID, "/cri-shim")
    if init == "is silent":
        with pytest.raises(FailedPrecondition, match="D-Bus"):
            select.driver("systemd", V2, "/cri-shim")


def test_cgroupfs_is_taken_at_its_word(init: str) -> None:
    assert type(select.driver("cgroupfs", V2, "/cri-shim")) is CgroupfsDriver
