"""What is kept of a pod's CNI network."""

from pathlib import Path

import pytest

from shim.network.cni_config import Configuration
from shim.network.cni_records import CniRecord, Failure, Store
from shim.store.records import UnreadableRecord

ID = "ab" * 32
GOLDEN = """{
 "sandbox_id": "%s",
 "configuration": {"name": "net", "cni_version": "1.0.0", "plugins": [{"type": "bridge", "mtu": 1500}]},
 "netns": "/run/netns/x",
 "args": "IgnoreUnknown=1",
 "capabilities": {"dns": {"servers": ["1.2.3.4"]}},
 "result": {"ips": [{"address": "10.0.0.2/24"}]},
 "version": 1
}"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "cni"), str(tmp_path / "quarantine"))


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    configuration = Configuration("net", "1.1.0", ({"type": "x"},), ("1.1.0", "1.0.0"), "/c", disable_gc=True)
    record = CniRecord(
        ID, configuration, "/n", "A=1", {"mac": "02"}, {"ips": []}, True, Failure(1, 2, 3, "no")
    )
    store.save(record)
    assert (store.load(ID), store.ids(), store.load_all(), store.exists(ID)) == (record, [ID], [record], True)
    store.drop(ID)
    store.drop(ID)
    assert (store.load(ID), store.ids(), store.exists(ID)) == (None, [], False)


def test_records_of_the_first_version_are_read(store: Store) -> None:
    path = Path(store.path(ID))
    path.parent.mkdir()
    path.write_text(GOLDEN % ID)
    record = store.load(ID)
    assert record is not None
    assert record.configuration.plugins == ({"type": "bridge", "mtu": 1500},)
    assert (record.ended, record.failure) == (False, None)


def test_what_is_no_record_stays_until_another_is_put_in_its_place(store: Store, tmp_path: Path) -> None:
    path = Path(store.path(ID))
    path.parent.mkdir()
    path.write_text("{")
    assert store.load_all() == []
    for _ in range(2):
        with pytest.raises(UnreadableRecord):
            store.load(ID)
    record = CniRecord(ID, Configuration("net", "1.1.0", ({"type": "x"},)), "", "")
    store.put_in_place(record)
    assert (tmp_path / "quarantine" / f"cni-{ID}.json").read_text() == "{"
    assert store.load(ID) == record


def test_the_ranges_of_the_node_are_no_record_of_a_pod(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    assert (store.load_cidrs(), store.ids()) == ((), [])
    store.save_cidrs(("10.0.0.0/24",))
    assert (store.load_cidrs(), store.ids(), store.load_all()) == (("10.0.0.0/24",), [], [])
    Path(store.path("pod-cidr")).write_text("{")
    assert store.load_cidrs() == ()
    assert "until a kubelet tells it again" in caplog.text
