"""Which network a new pod gets."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition
from shim.network.select import Mode, Networks
from shim.network.settings import BridgeSettings, CniSettings

Make = Callable[..., Networks]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Networks] = []
    quarantine = str(tmp_path / "quarantine")

    def build(mode: Mode = Mode.AUTO) -> Networks:
        networks = Networks(
            BridgeSettings(str(tmp_path / "network"), quarantine),
            CniSettings(str(tmp_path / "cni"), quarantine, (str(tmp_path / "net.d"),)),
            mode,
            (str(tmp_path / "kubelet.conf"),),
        )
        made.append(networks)
        return networks

    yield build
    for networks in made:
        await networks.close()


@pytest.mark.parametrize("seen", ["net.d/10-calico.conflist", "kubelet.conf"])
def test_auto_is_cni_from_the_moment_it_was_seen(make: Make, tmp_path: Path, seen: str) -> None:
    networks = make()
    assert networks.kind() == "builtin"
    path = tmp_path / seen
    path.parent.mkdir(exist_ok=True)
    path.write_text("not even a configuration")
    assert networks.kind() == "cni"
    path.unlink()
    assert networks.kind() == "cni"
    assert make().kind() == "cni"


def test_other_files_are_no_configuration(make: Make, tmp_path: Path) -> None:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d/README.md").write_text("")
    assert make().kind() == "builtin"


def test_a_mode_that_names_one_is_obeyed(make: Make, tmp_path: Path) -> None:
    assert make(Mode.CNI).kind() == "cni"
    (tmp_path / "kubelet.conf").write_text("")
    assert make(Mode.BUILTIN).kind() == "builtin"
    assert make(Mode.AUTO).kind() == "cni"


async def test_cni_is_not_ready_before_a_configuration_loads(make: Make, tmp_path: Path) -> None:
    condition = await make(Mode.CNI).status()
    assert not condition.ready
    assert str(tmp_path / "net.d") in condition.message


def test_both_kinds_can_be_had_whatever_new_pods_get(make: Make) -> None:
    networks = make(Mode.BUILTIN)
    assert networks.get("cni") is not networks.get("builtin")
    with pytest.raises(FailedPrecondition, match="no network of kind 'vxlan'"):
        networks.get("vxlan")


async def test_only_cni_goes_on_by_itself_and_can_be_checked(make: Make) -> None:
    networks = make(Mode.CNI)
    assert not networks.hand_over("builtin", "ab" * 32)
    assert networks.hand_over("cni", "ab" * 32)
    assert await networks.check("builtin", "ab" * 32) == "not asked: the network is builtin"
    assert await networks.check("cni", "ab" * 32) == "not asked: the sandbox has no network"
    details = networks.details()
    assert (details["kind"], details["mode"], details["cni"]["waiting"]) == ("cni", "cni", [])
