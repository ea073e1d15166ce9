from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from shim.daemon.config import CgroupConfig, Config, NetworkConfig, RegistryConfig
from shim.daemon.doctor import NAMESPACES, Finding, Host, Level, examine
from shim.network.forwarding import Chain
from shim.network.survey import Link, Survey
from shim.services.confinement import apparmor

GOOD = {
    "proc/self/status": "CapEff:\t000001ffffffffff\n",
    "proc/self/limits": "Max open files            1024        1048576       files\n",
    "proc/self/mountinfo": "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n",
    "proc/sys/kernel/seccomp/actions_avail": "kill\n",
    "proc/sys/vm/memfd_noexec": "0\n",
    "proc/sys/net/ipv4/ip_forward": "1\n",
    "proc/filesystems": "nodev\toverlay\nnodev\tcgroup2\n\text4\n",
    "proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    "usr/lib/x86_64-linux-gnu/libseccomp.so.2": "",
    "lib/modules/6.1.0/modules.dep": "kernel/net/bridge/bridge.ko.xz:\nkernel/drivers/net/veth.ko:\n",
    **{f"proc/self/ns/{name}": "" for name in NAMESPACES},
}


def host(tmp_path: Path, changes: dict[str, str | None] | None = None, **fields: object) -> Host:
    for name, text in (GOOD | (changes or {})).items():
        path = tmp_path / name
        if text is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return Host(**{"root": tmp_path, "uid": 0, "kernel": "6.1.0", "netfilter": True} | fields)  # type: ignore[arg-type]


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not Level.OK]


def test_nothing_is_missing_on_a_good_host(tmp_path: Path) -> None:
    assert bad(examine(host(tmp_path), Config())) == []


@pytest.mark.parametrize(
    ("changes", "fields", "subject", "word"),
    [
        ({apparmor.ENABLED: "Y\n"}, {}, "AppArmor", "apparmor_parser"),
        ({}, {"uid": 1000}, "user", "uid 1000"),
        ({"proc/self/status": "CapEff:\t0000000001000000\n"}, {}, "capabilities", "CAP_SYS_ADMIN"),
        ({"proc/self/status": "CapEff:\t000001fffeffffff\n"}, {}, "capabilities", "CAP_SYS_RESOURCE"),
        ({}, {"kernel": "4.19.0"}, "kernel", "4.19.0"),
        ({}, {"device_programs": False}, "devices", "nor BPF programs"),
        ({"proc/self/ns/cgroup": None}, {}, "namespaces", "cgroup"),
        ({"proc/sys/kernel/seccomp/actions_avail": None}, {}, "seccomp", "not in this kernel"),
        ({"proc/sys/vm/memfd_noexec": "2\n"}, {}, "memfd", "is 2"),
        ({"usr/lib/x86_64-linux-gnu/libseccomp.so.2": None}, {}, "libseccomp", "not found"),
        ({"proc/filesystems": "cgroup2 ext4"}, {}, "overlayfs", "not in"),
        (
            {"proc/self/mountinfo": "1 0 8:1 / / rw - overlay a rw\n"},
            {},
            "root directory",
            "lies on an overlay",
        ),
        (
            {"proc/self/mountinfo": "1 0 8:1 / / rw - ext4 a rw\n2 1 0:1 / /var/lib rw - nfs4 b rw\n"},
            {},
            "root directory",
            "nfs4",
        ),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu"}, {}, "cgroups", "cpuset, memory, pids"),
        ({"proc/filesystems": "overlay"}, {}, "cgroups", "no cgroup2"),
        (
            {"var/lib/kubelet/config.yaml": "a: b\ncgroupDriver: systemd\n"},
            {},
            "cgroup driver",
            "ours is cgroupfs",
        ),
        ({"lib/modules/6.1.0/modules.dep": "x/veth.ko:"}, {}, "network", "no bridge"),
        ({}, {"netfilter": False}, "network", "netfilter"),
        ({"proc/sys/net/ipv4/ip_forward": "0\n"}, {}, "network", "ip_forward"),
        ({"proc/self/limits": "Max open files  1024  4096  files\n"}, {}, "open files", "4096"),
    ],
)
def test_each_lack_is_named_with_a_remedy(
    tmp_path: Path, changes: dict[str, str | None], fields: dict[str, object], subject: str, word: str
) -> None:
    findings = bad(examine(host(tmp_path, changes, **fields), Config()))
    assert [finding.subject for finding in findings] == [subject]
    assert word in findings[0].found
    assert findings[0].remedy


def test_controllers_of_version_1_count(tmp_path: Path) -> None:
    rows = "".join(f"{name}\t{n}\t1\t1\n" for n, name in enumerate(("cpu", "cpuset", "memory", "pids"), 1))
    changes = {"sys/fs/cgroup/cgroup.controllers": "", "proc/cgroups": rows}
    assert bad(examine(host(tmp_path, changes), Config())) == []


def test_systemd_as_driver_needs_systemd(tmp_path: Path) -> None:
    config = Config(cgroup=CgroupConfig(driver="systemd"))
    assert [each.found for each in bad(examine(host(tmp_path), config))] == ["systemd does not run here"]
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert bad(examine(host(tmp_path), config)) == []


def test_a_name_or_range_that_is_taken_is_found(tmp_path: Path) -> None:
    there = Survey(
        (Link("cri-shim0", "dummy"),),
        (
            (IPv4Network("10.88.1.0/24"), "eth0"),
            (IPv6Network("fd00::/64"), "eth0"),
            (IPv6Network("fd00::/48"), "eth0"),
        ),
    )
    config = Config(network=NetworkConfig(subnet="10.88.0.0/16,fd00::/64"))
    found = [each.found for each in bad(examine(host(tmp_path, network=there), config))]
    assert len(found) == 3
    assert "network.subnet fd00::/64 overlaps fd00::/64" in found[2]
    assert "is no bridge but a dummy" in found[0]
    assert "overlaps 10.88.1.0/24" in found[1]


def test_with_cni_the_bridge_is_no_concern(tmp_path: Path) -> None:
    config = Config(network=NetworkConfig(mode="cni"))
    (finding,) = bad(examine(host(tmp_path, netfilter=False), config))
    assert (finding.subject, finding.level) == ("CNI", Level.WARNING)
    assert "no configuration in /etc/cni/net.d" in finding.found


def test_a_cni_configuration_without_its_plugin_stops_pods(tmp_path: Path) -> None:
    text = '{"cniVersion":"1.0.0","name":"net","type":"nowhere"}'
    (finding,) = bad(examine(host(tmp_path, {"etc/cni/net.d/10-net.conf": text}), Config()))
    assert (finding.subject, finding.level, finding.remedy) == ("CNI", Level.MISSING, "install it")


def test_what_other_programs_drop_is_found(tmp_path: Path) -> None:
    there = Survey(droppers=(Chain("ip", "filter", "FORWARD"),), legacy=("iptables-legacy",))
    first, second = bad(examine(host(tmp_path, network=there), Config()))
    assert "'ip filter FORWARD' of another program drops" in first.found
    assert "iptables-legacy has a policy DROP" in second.found


def test_whether_pods_can_have_ipv6_is_told(tmp_path: Path) -> None:
    findings = examine(host(tmp_path), Config())
    assert [each.found for each in findings if "pods get no IPv6" in each.found]
    conf = tmp_path / "proc/sys/net/ipv6/conf"
    for name, value in (("all/disable_ipv6", "0"), ("default/disable_ipv6", "0"), ("all/forwarding", "0")):
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / name).write_text(value)
    findings = examine(host(tmp_path), Config())
    assert "pods can have IPv4 and IPv6" in [each.found for each in findings]
    assert "net.ipv6.conf.all.forwarding is 0" in bad(findings)[0].found


def test_what_is_removed_again_and_again_is_told(tmp_path: Path) -> None:
    leases = tmp_path / "var/lib/cri-shim/network/leases"
    leases.mkdir(parents=True)
    (leases / "a.json").write_text('{"link":"cs1","failure":"busy"}')
    (leases / "b.json").write_text('{"link":"cs2","failure":""}')
    (leases / "c.json").write_text("{")
    (leases / "d.json").write_text("[]")
    (found,) = bad(examine(host(tmp_path), Config()))
    assert found.found == "link cs1 of sandbox a cannot be removed: busy"


def test_this_machine_can_be_looked_at() -> None:
    assert examine(Host.here(), Config())


def test_every_hosts_file_is_read(tmp_path: Path) -> None:
    changes: dict[str, str | None] = {
        "etc/cri-shim/certs.d/good.example/hosts.toml": "server = 'https://good.example'",
        "etc/cri-shim/certs.d/odd.example_5000_/hosts.toml": "sever = 'x'",
        "etc/containerd/certs.d/bad.example/hosts.toml": "server = ",
        "etc/containerd/certs.d/good.example/hosts.toml": "never = 'read'",
    }
    config = Config(registry=RegistryConfig(docker_config="/none.json"))
    found = bad(examine(host(tmp_path, changes), config))
    assert [finding.subject for finding in found] == ["registries"] * 3
    assert "odd.example_5000_/hosts.toml: unknown key 'sever'" in found[0].found
    assert "malformed" in found[1].found
    assert "bad.example" in found[1].found
    assert "/none.json" in found[2].found
