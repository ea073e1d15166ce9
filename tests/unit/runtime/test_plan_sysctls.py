"""Which kernel parameters a pod may set, and when they are set."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.network import select
from shim.runtime.plan import decode_plan, encode_plan
from shim.runtime.plan_sysctls import (
    _BUILTIN,
    BUILTIN_SYSCTLS,
    check,
    is_optional,
    plan_interface_sysctls,
    plan_sysctls,
)
from shim.runtime.steps_namespaces import JoinNamespaces, OpenNamespaces, WriteSysctl

ALL = ("net", "ipc", "uts")


def test_sysctls_of_the_request_win(sandbox: Any) -> None:
    asked = {"net.ipv4.ip_unprivileged_port_start": "1024", "net/core/somaxconn": "7"}
    assert plan_sysctls(sandbox(sysctls=asked)) == {
        "net.ipv4.ip_unprivileged_port_start": "1024",
        "net.ipv4.ping_group_range": "0 2147483647",
        "net.core.somaxconn": "7",
        **BUILTIN_SYSCTLS,
    }
    assert plan_interface_sysctls(sandbox(sysctls=asked)) is None


def test_a_pod_of_the_built_in_network_asks_nobody_and_listens_to_no_router(sandbox: Any) -> None:
    assert _BUILTIN == select.BUILTIN
    spec = sandbox(sysctls={"net.ipv6.conf.default.accept_ra": "2"})
    found = plan_sysctls(spec)
    assert found["net.ipv6.conf.default.accept_dad"] == "0"
    assert found["net.ipv6.conf.default.accept_ra"] == "2"
    optional = {name for name in found if is_optional(name, spec)}
    assert optional == {"net.ipv6.conf.default.accept_dad"}  # a kernel without IPv6 is no error
    assert (
        not BUILTIN_SYSCTLS.keys() & plan_sysctls(dataclasses.replace(sandbox(), network=select.CNI)).keys()
    )


def test_what_belongs_to_an_interface_waits_for_it(sandbox: Any) -> None:
    late = {
        "net/ipv4/conf/eth0.1/forwarding": "1",
        "net.ipv6.neigh.eth0.gc_stale_time": "9",
        "net.ipv4.conf.eth0.arp_ignore": "1",
    }
    early = {
        "net.ipv4.conf.all.forwarding": "1",
        "net.ipv4.conf.default.forwarding": "1",
        "net.ipv6.conf.lo.disable_ipv6": "1",
        "net.ipv4.neigh.default.gc_thresh1": "9",
    }
    spec = sandbox(sysctls=late | early)
    assert set(plan_sysctls(spec)) >= set(early)
    plan = plan_interface_sysctls(spec)
    assert plan is not None
    assert plan.stage1 == (
        OpenNamespaces((("net", "/pins/net"),)),
        JoinNamespaces(("net",)),
        WriteSysctl("net.ipv4.conf.eth0/1.forwarding", "1"),
        WriteSysctl("net.ipv6.neigh.eth0.gc_stale_time", "9"),
        WriteSysctl("net.ipv4.conf.eth0.arp_ignore", "1"),
    )
    assert decode_plan(encode_plan(plan)) == plan


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.core.somaxconn", "net"),
        ("net/core/somaxconn", "net"),
        ("net.netfilter.nf_conntrack_max", "net"),
        ("kernel.shmmax", "ipc"),
        ("kernel.shm_rmid_forced", "ipc"),
        ("kernel/msgmax", "ipc"),
        ("kernel.sem", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("fs/mqueue/queues_max", "ipc"),
        ("kernel.domainname", "uts"),
    ],
)
def test_a_sysctl_needs_its_namespace(name: str, kind: str) -> None:
    assert check({name: "1"}, (kind,)) == {name.replace("/", "."): "1"}
    with pytest.raises(InvalidArgument, match=f"shares the {kind} namespace") as caught:
        check({name: "1"}, [other for other in ALL if other != kind])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "kernel.panic",
            "vm.swappiness",
            "fs.file-max",
            "kernel/core_pattern",
            "netx.a",
            "kernel.semaphore",
        ),
        *("kernel.shm", "kernel.msg", "fs.mqueuex.a", "user.max_user_namespaces", "kernel.shmmax.x", "dev.x"),
    ],
)
def test_a_sysctl_of_the_node_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="would change the node"):
        check({name: "1"}, ALL)


@pytest.mark.parametrize(
    "name",
    ["", "net", "net.", ".net.a", "net..a", "net/../a", "../net.a", "net.a b", "net.a\n", "net.\0", "/net/a"],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="not the name of a sysctl"):
        check({name: "1"}, ALL)


@pytest.mark.parametrize("value", ["", "1\n2", "\0", "x" * 5000, "\x1b"])
def test_values_are_one_line(value: str) -> None:
    with pytest.raises(InvalidArgument, match=r"'net\.a\.b' cannot be"):
        check({"net.a.b": value}, ALL)
    assert check({"net.a.b": "1\t2 3"}, ALL) == {"net.a.b": "1\t2 3"}


def test_a_contradiction_is_refused() -> None:
    assert check({"net.a.b": "1", "net/a/b": "1"}, ALL) == {"net.a.b": "1"}
    with pytest.raises(InvalidArgument, match="twice"):
        check({"net.a.b": "1", "net/a/b": "2"}, ALL)


def test_the_host_name_has_a_field_of_its_own() -> None:
    with pytest.raises(InvalidArgument, match="hostname"):
        check({"kernel.hostname": "x"}, ALL)
