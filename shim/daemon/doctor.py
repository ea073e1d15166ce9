"""What a host needs to run containers, and what to do where it is missing.

Each check looks, changes nothing, and returns a finding. ``Host`` is where they look, so that tests can bring
a host of their own.
"""

from __future__ import annotations

import enum
import json
import os
import platform
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shim.cgroups import devices
from shim.daemon.config import Config
from shim.errors import FailedPrecondition
from shim.images import hosts
from shim.network import cni_survey, ipv6, survey
from shim.network.select import Mode
from shim.network.settings import DEFAULT_BRIDGE
from shim.network.survey import NOTHING, Survey
from shim.services.confinement import apparmor
from shim.store.layout import Layout

OLDEST_KERNEL: Final = (5, 15)
ENOUGH_FILES: Final = 65536
NETLINK_NETFILTER: Final = 12  # linux/netlink.h

# Bits of capabilities(7) without which nothing works.
NEEDED_CAPABILITIES: Final = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}
CAP_SYS_RESOURCE: Final = 24

NAMESPACES: Final = ("net", "ipc", "uts", "pid", "mnt", "cgroup")
CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids")


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for a person: what was looked at, what was found, what to do (empty if nothing)."""

    level: Level
    subject: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine: a root directory to look into, and what only system calls tell."""

    root: Path = Path("/")
    uid: int = 0
    kernel: str = ""
    netfilter: bool = True
    device_programs: bool = True
    network: Survey = NOTHING

    @classmethod
    def here(cls, bridge: str = DEFAULT_BRIDGE) -> Host:
        """Return this machine; ``bridge`` is the one of the built-in network."""
        return cls(
            Path("/"),
            os.geteuid(),
            platform.release(),
            _has_netfilter(),
            devices.takes_programs(),
            survey.look(bridge),
        )

    def read(self, path: str) -> str:
        """Return a file's text, empty if it cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text("utf-8", "replace")
        except OSError:
            return ""

    def exists(self, path: str) -> bool:
        """Tell whether something is there."""
        return (self.root / path.lstrip("/")).exists()


def _has_netfilter() -> bool:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER):
            return True
    except OSError:
        return False


def examine(host: Host, config: Config) -> list[Finding]:
    """Run every check."""
    return [finding for check in CHECKS for finding in check(host, config)]


def _user(host: Host, _config: Config) -> Iterator[Finding]:
    if host.uid != 0:
        yield Finding(Level.MISSING, "user", f"uid {host.uid}", "run it as root")
        return
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", host.read("/proc/self/status"), re.MULTILINE)
    held = int(match[1], 16) if match else 0
    lost = [name for name, bit in NEEDED_CAPABILITIES.items() if not held >> bit & 1]
    if lost:
        yield Finding(
            Level.MISSING, "capabilities", f"without {', '.join(lost)}", "run it with all capabilities"
        )
    else:
        yield Finding(Level.OK, "capabilities", "root with what is needed")
    if not held >> CAP_SYS_RESOURCE & 1:
        yield Finding(
            Level.WARNING,
            "capabilities",
            "without CAP_SYS_RESOURCE: limits above our own and negative oom_score_adj are refused",
            "run it with CAP_SYS_RESOURCE if pods need them",
        )


def _kernel(host: Host, _config: Config) -> Iterator[Finding]:
    match = re.match(r"(\d+)\.(\d+)", host.kernel)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    oldest = ".".join(map(str, OLDEST_KERNEL))
    if version < OLDEST_KERNEL:
        yield Finding(Level.MISSING, "kernel", host.kernel, f"use Linux {oldest} or newer")
    else:
        yield Finding(Level.OK, "kernel", host.kernel)
    lost = [name for name in NAMESPACES if not host.exists(f"/proc/self/ns/{name}")]
    if lost:
        yield Finding(
            Level.MISSING, "namespaces", f"no {', '.join(lost)}", "use a kernel built with all namespaces"
        )
    if not host.exists("/proc/sys/kernel/seccomp/actions_avail"):
        yield Finding(
            Level.MISSING, "seccomp", "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER"
        )
    if host.read("/proc/sys/vm/memfd_noexec").strip() == "2":
        yield Finding(
            Level.WARNING,
            "memfd",
            "vm.memfd_noexec is 2: memfds may not be executed",
            "set it to 1 or 0; until then the supervisor runs from a read-only bind mount",
        )


def _libraries(host: Host, _config: Config) -> Iterator[Finding]:
    if any(list(host.root.glob(f"{place}/libseccomp.so.2")) for place in _LIBRARY_PLACES):
        yield Finding(Level.OK, "libseccomp", "found")
    else:
        yield Finding(
            Level.MISSING,
            "libseccomp",
            "libseccomp.so.2 not found: RuntimeDefault profiles cannot be built",
            "install it: Debian's package libseccomp2",
        )


_LIBRARY_PLACES: Final = ("lib", "lib64", "lib/*-linux-gnu", "usr/lib", "usr/lib64", "usr/lib/*-linux-gnu")


def _apparmor(host: Host, _config: Config) -> Iterator[Finding]:
    found = apparmor.look(str(host.root))
    if not found.enabled:
        yield Finding(Level.OK, "AppArmor", "not in this kernel, or switched off")
    elif apparmor.DEFAULT in found.loaded:
        yield Finding(Level.OK, "AppArmor", f"profile {apparmor.DEFAULT} is loaded")
    elif apparmor.parser(str(host.root)) is None:
        yield Finding(
            Level.WARNING,
            "AppArmor",
            "on, but there is no apparmor_parser: containers that ask for no profile run without one,"
            " those that ask for RuntimeDefault are refused",
            "install it: Debian's package apparmor",
        )
    elif not found.readable:
        yield Finding(
            Level.WARNING,
            "AppArmor",
            "on, but its list of profiles cannot be read",
            "mount securityfs: mount -t securityfs none /sys/kernel/security",
        )
    else:
        yield Finding(Level.OK, "AppArmor", "on; the daemon loads its profile when it starts")


def _file_systems(host: Host, config: Config) -> Iterator[Finding]:
    known = host.read("/proc/filesystems").split()
    if "overlay" in known:
        yield Finding(Level.OK, "overlayfs", "in this kernel")
    else:
        yield Finding(Level.MISSING, "overlayfs", "not in /proc/filesystems", "load it: modprobe overlay")
    kind = _fstype(host, config.root)
    if kind == "overlay":
        yield Finding(
            Level.MISSING,
            "root directory",
            f"{config.root} lies on an overlay, which cannot carry another",
            "set root to a directory on ext4, xfs, btrfs or tmpfs",
        )
    elif kind in ("nfs", "nfs4", "cifs", "fuse", "9p", "vfat"):
        yield Finding(
            Level.MISSING,
            "root directory",
            f"{config.root} lies on {kind}, which cannot be the upper part of an overlay",
            "set root to a directory on a local disk",
        )
    else:
        yield Finding(Level.OK, "root directory", f"{config.root} on {kind or 'an unknown file system'}")


def _fstype(host: Host, path: str) -> str:
    """Return the type of the file system that a path is or will be on (proc_pid_mountinfo(5))."""
    best, kind = "", ""
    for line in host.read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mount = before.split()[4]
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind


def _cgroups(host: Host, config: Config) -> Iterator[Finding]:
    v2 = "cgroup2" in host.read("/proc/filesystems").split()
    unified = set(host.read("/sys/fs/cgroup/cgroup.controllers").split())
    v1 = {
        name for name, hierarchy, _count, enabled in _cgroup_rows(host) if enabled == "1" and hierarchy != "0"
    }
    lost = [name for name in CONTROLLERS if name not in unified | v1]
    if lost:
        yield Finding(
            Level.MISSING,
            "cgroups",
            f"no controller {', '.join(lost)}",
            "mount cgroups (systemd does), and see cgroup_disable= on the kernel's command line",
        )
    else:
        yield Finding(Level.OK, "cgroups", "version 2" if unified else "version 1")
    if not v2:
        yield Finding(
            Level.MISSING, "cgroups", "no cgroup2 to track processes with", "use a kernel with cgroup v2"
        )
    if "devices" not in v1 and not host.device_programs:
        yield Finding(
            Level.MISSING,
            "devices",
            "neither the devices controller of version 1 nor BPF programs: containers would be refused",
            "use a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL, and run it with CAP_SYS_ADMIN",
        )
    yield from _driver(host, config)


def _cgroup_rows(host: Host) -> Iterator[list[str]]:
    for line in host.read("/proc/cgroups").splitlines():
        row = line.split()
        if len(row) == 4 and not line.startswith("#"):
            yield row


def _driver(host: Host, config: Config) -> Iterator[Finding]:
    """Compare with the kubelet of this node: two drivers on one tree restart every pod hours later."""
    match = re.search(
        r"^cgroupDriver:\s*[\"']?(\w+)", host.read("/var/lib/kubelet/config.yaml"), re.MULTILINE
    )
    systemd = host.exists("/run/systemd/system")
    ours = config.cgroup.driver
    if ours == "auto":
        ours = "systemd" if systemd else "cgroupfs"
    if ours == "systemd" and not systemd:
        yield Finding(
            Level.MISSING, "cgroup driver", "systemd does not run here", 'set cgroup.driver = "cgroupfs"'
        )
    elif match and match[1] != ours:
        yield Finding(
            Level.MISSING,
            "cgroup driver",
            f"ours is {ours}, the kubelet's {match[1]}",
            f'set cgroup.driver = "{match[1]}", or cgroupDriver in /var/lib/kubelet/config.yaml',
        )
    else:
        yield Finding(Level.OK, "cgroup driver", ours)


def _network(host: Host, config: Config) -> Iterator[Finding]:
    if config.network.mode == "cni":
        return
    for module, purpose in (("bridge", "the pods' bridge"), ("veth", "the pods' links")):
        if not _has_module(host, module):
            yield Finding(
                Level.MISSING, "network", f"no {module} for {purpose}", f"load it: modprobe {module}"
            )
    if not host.netfilter:
        yield Finding(
            Level.MISSING,
            "network",
            "no netfilter for masquerade and host ports",
            "load it: modprobe nf_tables",
        )
    for wrong, remedy in survey.problems(host.network, config.network.bridge, config.network.subnet):
        yield Finding(Level.MISSING, "network", wrong, remedy)
    lack = ipv6.find_lack(config.network.mtu or ipv6.MIN_MTU, str(host.root / "proc/sys"))
    yield Finding(Level.OK, "network", f"pods get no IPv6: {lack}" if lack else "pods can have IPv4 and IPv6")
    for switch in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        if host.read("/proc/sys/" + switch.replace(".", "/")).strip() == "0" and not (
            lack and "ipv6" in switch
        ):
            yield Finding(
                Level.WARNING,
                "network",
                f"{switch} is 0; the daemon sets it to 1 when the first pod comes",
                "set it in /etc/sysctl.d if it must stay so after a reboot",
            )
    yield from _leftovers(host, config)


def _leftovers(host: Host, config: Config) -> Iterator[Finding]:
    """Find what the built-in network tries to remove again and again."""
    for path in sorted((host.root / config.root.lstrip("/")).glob("network/leases/*.json")):
        try:
            lease = json.loads(path.read_bytes())
            failure = str(lease.get("failure", ""))
        except (OSError, ValueError, AttributeError):
            continue
        if failure:
            yield Finding(
                Level.WARNING,
                "network",
                f"link {lease.get('link')} of sandbox {path.stem} cannot be removed: {failure}",
                f"the daemon tries it again; by hand: ip link delete {lease.get('link')}",
            )


def _cni(host: Host, config: Config) -> Iterator[Finding]:
    layout = Layout(config.root, config.state)
    network = config.network
    places = cni_survey.Places(
        root=str(host.root),
        mode=Mode(network.mode),
        conf_dirs=network.cni_conf_dirs,
        bin_dirs=network.cni_bin_dirs,
        network=layout.network,
        sandboxes=layout.sandboxes,
    )
    for problem in cni_survey.problems(places):
        level = Level.MISSING if problem.stops_pods else Level.WARNING
        yield Finding(level, "CNI", problem.found, problem.remedy)


def _has_module(host: Host, name: str) -> bool:
    """Tell whether a driver is there or can be loaded; a kernel that does not say is trusted."""
    folder = f"/lib/modules/{host.kernel}"
    if host.exists(f"/sys/module/{name}") or not host.exists(f"{folder}/modules.dep"):
        return True
    listed = host.read(f"{folder}/modules.builtin") + host.read(f"{folder}/modules.dep")
    return re.search(rf"/{name}\.ko\b", listed) is not None


def _limits(host: Host, _config: Config) -> Iterator[Finding]:
    match = re.search(r"^Max open files\s+\d+\s+(\d+)", host.read("/proc/self/limits"), re.MULTILINE)
    if match and int(match[1]) < ENOUGH_FILES:
        yield Finding(
            Level.WARNING,
            "open files",
            f"at most {match[1]}; each container takes about ten",
            f"raise the hard limit of the service to {ENOUGH_FILES} or more (LimitNOFILE=)",
        )


def _registries(host: Host, config: Config) -> Iterator[Finding]:
    """Read every hosts.toml: else a mistake shows when the first image of that registry is pulled."""
    seen: set[str] = set()
    for root in config.registry.config_path:
        for directory in sorted((host.root / root.lstrip("/")).glob("*/")):
            if directory.name in seen:
                continue  # an earlier place has this registry
            seen.add(directory.name)
            domain = re.sub(r"^(.+)_(\d+)_$", r"\1:\2", directory.name)
            try:
                warnings = hosts.look_up((str(directory.parent),), domain).warnings
            except FailedPrecondition as error:
                yield Finding(Level.WARNING, "registries", str(error), "no image comes from there")
                continue
            for warning in warnings:
                yield Finding(Level.WARNING, "registries", warning, "it has no effect")
    path = config.registry.docker_config
    if path and not host.exists(path):
        yield Finding(
            Level.WARNING,
            "registries",
            f"registry.docker_config: {path} is not there",
            "registries that want credentials refuse pulls without any",
        )


CHECKS: Final[tuple[Callable[[Host, Config], Iterator[Finding]], ...]] = (
    _user,
    _kernel,
    _libraries,
    _apparmor,
    _file_systems,
    _cgroups,
    _network,
    _cni,
    _limits,
    _registries,
)
