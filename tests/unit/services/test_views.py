from shim.model.network import NetworkResult
from shim.model.sandbox import SandboxConfig, SandboxMetadata, SandboxSpec, SandboxState, SandboxStatus
from shim.services.views import SandboxFilter, SandboxView, has_labels, whole_id

SPEC = SandboxSpec(
    id="s1",
    config=SandboxConfig(SandboxMetadata("web", "u1", "default"), labels={"a": "1", "b": "2"}),
    handler="",
    created_at_ns=1,
    cgroup_driver="cgroupfs",
    cgroup_parent="/p",
    network="builtin",
)
READY = SandboxView(SPEC, SandboxStatus(ready_at_ns=1, network=NetworkResult(("10.1.1.2",))))


def test_all_of_a_filter_must_hold() -> None:
    assert SandboxFilter().matches(READY)
    assert SandboxFilter(id="s1", state=SandboxState.READY, labels={"a": "1"}).matches(READY)
    assert not SandboxFilter(id="s2").matches(READY)
    assert not SandboxFilter(state=SandboxState.NOTREADY).matches(READY)
    assert not SandboxFilter(labels={"a": "2"}).matches(READY)


def test_labels_match_by_key_and_value() -> None:
    assert has_labels({"a": ""}, {"a": ""})
    assert not has_labels({}, {"a": ""})


def test_a_sandbox_that_is_not_ready_has_no_address() -> None:
    stopped = SandboxView(
        SPEC, SandboxStatus(ready_at_ns=1, stopped_at_ns=2, network=NetworkResult(("10.1.1.2",)))
    )
    assert READY.ips == ("10.1.1.2",)
    assert stopped.ips == ()


def test_a_prefix_that_means_nothing_matches_nothing() -> None:
    assert whole_id("", lambda _: "s1") == ""
    assert whole_id("s", lambda _: "s1") == "s1"
    assert whole_id("x", lambda _: None) == "x"
