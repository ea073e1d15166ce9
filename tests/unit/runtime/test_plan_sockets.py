"""The plan that opens sockets in a pod."""

from __future__ import annotations

from shim.runtime.plan import decode_plan, encode_plan
from shim.runtime.plan_sockets import plan_sockets
from shim.runtime.steps_namespaces import JoinNamespaces, OpenNamespaces, SendSockets


def test_the_network_is_joined_before_anything_is_opened() -> None:
    plan = plan_sockets("/run/netns/x", 4)
    assert plan.stage1 == (
        OpenNamespaces((("net", "/run/netns/x"),)),
        JoinNamespaces(("net",)),
        SendSockets(4),
    )
    assert plan.stage2 == ()
    assert decode_plan(encode_plan(plan)) == plan
