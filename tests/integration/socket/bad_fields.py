"""Each field of the Linux parts of a pod and of a container, with what it cannot be.

Out of range, in contradiction to another field, or for something that this node lacks. ``FIELDS`` is held
against the messages of the CRI by ``tests/unit/test_fields.py``; ``test_bad_fields.py`` tries each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from shim._proto import api_pb2 as cri
from shim.cgroups import hierarchy, systemd
from shim.kernel import proc

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND
V1 = bool(hierarchy.detect(proc.mountinfo()).v1)
APPARMOR = Path("/sys/module/apparmor/parameters/enabled").exists()
LOCALHOST = cri.SecurityProfile.Localhost


class Bad(NamedTuple):
    """One bad value.

    Attributes:
        field: ``Message.field`` of the CRI.
        spoil: puts the value into a config.
        words: of the answer, beside the code.
        at_start: the kernel is asked only when the container starts.
    """

    field: str
    spoil: Callable[[Any], object]
    words: tuple[str, ...]
    code: grpc.StatusCode = INVALID
    at_start: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {' '.join(self.words)}"


def put(path: str, value: Any) -> Callable[[Any], object]:
    """Return what sets a field, or adds to one that is repeated; ``path`` begins below ``linux``."""

    def spoil(config: Any) -> None:
        *parents, name = path.split(".")
        message = config.linux
        for each in parents:
            message = getattr(message, each)
        field = message.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, dict) and field.message_type and not field.message_type.GetOptions().map_entry:
            getattr(message, name).CopyFrom(field.message_type._concrete_class(**value))
        elif isinstance(value, dict):
            getattr(message, name).update(value)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)

    return spoil


def both(*spoils: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda config: [spoil(config) for spoil in spoils]


def mount(**fields: Any) -> Callable[[Any], object]:
    whole = {"container_path": "/v", "host_path": "/tmp"} | fields
    return lambda config: config.mounts.add(**whole)


def device(**fields: Any) -> Callable[[Any], object]:
    whole = {"container_path": "/dev/x", "host_path": "/dev/null", "permissions": "rw"} | fields
    return lambda config: config.devices.add(**whole)


def users(host: int = 200_000, inside: int = 0, length: int = 65_536, **more: Any) -> dict[str, Any]:
    ids = [cri.IDMapping(host_id=host, container_id=inside, length=length)]
    return {"mode": cri.POD, "uids": ids, "gids": ids} | more


S = "security_context."
NO = f"{S}namespace_options."
UNS = f"{NO}userns_options"
IDS = (-1, 2**32 - 1, 2**32, 2**63 - 1)


def resources(field: str, *, pod: bool) -> Iterator[Bad]:
    """Yield what no limit can be; ``field`` is where the limits are, below ``linux``."""

    def bad(name: str, value: Any, *words: str, code: grpc.StatusCode = INVALID, start: bool = False) -> Bad:
        return Bad(f"LinuxContainerResources.{name}", put(f"{field}.{name}", value), words, code, start)

    for name, values in (
        ("cpu_period", (-1, 1, 999, 1_000_001, 2**62)),
        ("cpu_quota", (-2, 1, 999, 2**44, -(2**63))),
        ("cpu_shares", (-1,)),
        ("memory_limit_in_bytes", (-2, -(2**63))),
        ("memory_swap_limit_in_bytes", (-2,)),
        ("oom_score_adj", (-1001, 1001, 2**62)),
        ("cpuset_cpus", ("x", "0-", "-1", "0,,1", "0;1", "0\n")),
        ("cpuset_mems", ("x", "1-0-2", " ")),
    ):
        for value in values:
            yield bad(name, value, f"{field}.{name}")
    if pod:
        yield Bad(f"LinuxPodSandboxConfig.{field}", put(f"{field}.cpu_shares", -1), (f"{field}.cpu_shares",))
    huge = cri.HugepageLimit
    for size in ("", "2 MB", "2mb", "-1MB", "0MB", "../2MB"):
        spoil = put(f"{field}.hugepage_limits", [huge(page_size=size, limit=1)])
        yield Bad("HugepageLimit.page_size", spoil, (f"{field}.hugepage_limits",))
    yield bad(
        "hugepage_limits",
        [huge(page_size="2MB", limit=1), huge(page_size="2MB", limit=2)],
        "hugepage_limits",
        "twice",
    )
    for name in ("", ".", "memory", "../memory.max", "a/b.c", "memory.max\0"):
        yield bad("unified", {name: "1"}, f"{field}.unified")
    yield bad("unified", {"memory.high": "1\0"}, f"{field}.unified")
    more = put(f"{field}.memory_limit_in_bytes", 1 << 30)
    less = put(f"{field}.memory_swap_limit_in_bytes", 1 << 20)
    yield Bad(
        "LinuxContainerResources.memory_swap_limit_in_bytes",
        both(more, less),
        ("memory_swap_limit_in_bytes", "less than"),
    )
    if pod:
        return
    yield bad("memory_swap_limit_in_bytes", 1 << 20, "memory_swap_limit_in_bytes", "no limit")
    yield bad("cpuset_cpus", "4000", "cpuset.cpus", start=True)
    yield bad("cpuset_mems", "900", "cpuset.mems", start=True)
    if V1:
        yield bad("unified", {"memory.high": "1"}, "unified", "memory.high", "version 1", code=PRECONDITION)
    else:
        yield bad("unified", {"cgroup.kill": "1"}, "unified", "cgroup.kill")
        yield bad("unified", {"memory.nope": "1"}, "memory.nope", code=PRECONDITION, start=True)
        yield bad("unified", {"memory.high": "much"}, "memory.high", "much", start=True)
        yield bad("hugepage_limits", [huge(page_size="7KB", limit=1)], "hugetlb.7KB", start=True)


def identity(message: str) -> Iterator[Bad]:
    for value in IDS:
        for name in ("run_as_user", "run_as_group"):
            context = {"value": value}
            yield Bad(f"{message}.{name}", put(S + name, context), (name, str(value)))
        yield Bad(
            f"{message}.supplemental_groups",
            put(f"{S}supplemental_groups", [value]),
            ("supplemental_groups",),
        )
    yield Bad("Int64Value.value", put(f"{S}run_as_user", {"value": -(2**63)}), ("run_as_user", str(-(2**63))))
    yield Bad(
        f"{message}.run_as_group",
        put(f"{S}run_as_group", {"value": 5}),
        ("run_as_group", "without run_as_user"),
    )
    many = list(range(65_537))
    yield Bad(
        f"{message}.supplemental_groups",
        put(f"{S}supplemental_groups", many),
        ("supplemental_groups", "65537"),
    )
    policy = put(f"{S}supplemental_groups_policy", 7)
    yield Bad(f"{message}.supplemental_groups_policy", policy, ("supplemental_groups_policy",))


def confinement(message: str) -> Iterator[Bad]:
    for name, value in (("user", "a b"), ("role", "a:b"), ("type", "x" * 300), ("level", "s0:c")):
        words = (f"selinux_options.{name}",)
        yield Bad(f"SELinuxOption.{name}", put(f"{S}selinux_options", {name: value}), words)
        yield Bad(f"{message}.selinux_options", put(f"{S}selinux_options", {name: "\n"}), words)
    for name in ("seccomp", "apparmor"):
        for field, value in (
            ("profile_type", {"profile_type": 7}),
            ("profile_type", {"localhost_ref": "/x"}),
            ("localhost_ref", {"profile_type": LOCALHOST}),
            ("localhost_ref", {"profile_type": LOCALHOST, "localhost_ref": "localhost/"}),
        ):
            spoil = put(S + name, value)
            yield Bad(f"SecurityProfile.{field}", spoil, (name,))
            yield Bad(f"{message}.{name}", spoil, (name,))
    old = ["seccomp_profile_path"]
    if message == "LinuxContainerSecurityContext":
        old.append("apparmor_profile")
    for name in old:
        for value in ("nonsense", "localhost/", "runtime/other"):
            yield Bad(f"{message}.{name}", put(S + name, value), (name,))


def pods() -> Iterator[Bad]:
    message = "LinuxSandboxSecurityContext"
    for value in ("/a/../../b", "/", "/a\0b", "/" + "x" * 300, "/a\nb"):
        yield Bad("LinuxPodSandboxConfig.cgroup_parent", put("cgroup_parent", value), ("cgroup",))
    other = "/a" if systemd.is_init() else "kubepods-a.slice"
    yield Bad("LinuxPodSandboxConfig.cgroup_parent", put("cgroup_parent", other), ("cgroup_parent", "driver"))
    for name in (
        "vm.swappiness",
        "kernel.hostname",
        "../x",
        "net",
        "net.ipv4..x",
        "net.ipv4.no_such",
        "kernel.shm/../x",
    ):
        yield Bad("LinuxPodSandboxConfig.sysctls", put("sysctls", {name: "1"}), ("sysctl", name))
    for value in ("", "a\nb", "x" * 5000):
        sysctl = put("sysctls", {"net.ipv4.ip_forward": value})
        yield Bad("LinuxPodSandboxConfig.sysctls", sysctl, ("sysctl", "net.ipv4.ip_forward"))
    twice = put("sysctls", {"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"})
    yield Bad("LinuxPodSandboxConfig.sysctls", twice, ("sysctl", "twice"))
    for kind, name in (("network", "net.ipv4.ip_forward"), ("ipc", "kernel.shmmax")):
        node = both(put(NO + kind, cri.NODE), put("sysctls", {name: "1"}))
        yield Bad("LinuxPodSandboxConfig.sysctls", node, ("sysctl", name, "would change the node"))
    for kind in ("network", "ipc"):
        for mode in (cri.CONTAINER, cri.TARGET, 9):
            yield Bad(f"NamespaceOption.{kind}", put(NO + kind, mode), (kind,))
    for mode in (cri.TARGET, 9):
        yield Bad(
            "NamespaceOption.pid",
            put(f"{NO}pid", mode),
            ("TARGET" if mode == cri.TARGET else "namespace_options.pid",),
        )
    yield Bad("NamespaceOption.target_id", put(f"{NO}target_id", "f" * 64), ("target_id", "sandbox"))
    yield from user_namespaces()
    yield from identity(message)
    yield from confinement(message)
    yield from resources("overhead", pod=True)
    yield from resources("resources", pod=True)


def user_namespaces() -> Iterator[Bad]:
    for kind in ("network", "pid", "ipc"):
        node = both(put(UNS, users()), put(NO + kind, cri.NODE))
        yield Bad("NamespaceOption.userns_options", node, ("userns_options", kind))
    for mode in (cri.CONTAINER, cri.TARGET, 9):
        yield Bad("UserNamespace.mode", put(UNS, users(mode=mode)), ("userns_options",))
    yield Bad(
        "UserNamespace.mode", put(UNS, users(mode=cri.NODE)), ("userns_options", "mode NODE has no mappings")
    )
    for name in ("uids", "gids"):
        one = cri.IDMapping(host_id=200_000, container_id=0, length=10)
        two = cri.IDMapping(host_id=300_000, container_id=10, length=10)
        yield Bad(
            f"UserNamespace.{name}", put(UNS, users(**{name: []})), (f"userns_options.{name}", "exactly one")
        )
        yield Bad(
            f"UserNamespace.{name}",
            put(UNS, users(**{name: [one, two]})),
            (f"userns_options.{name}", "exactly one"),
        )
        yield Bad(
            f"UserNamespace.{name}", put(UNS, users(**{name: [one]})), ("userns_options", "same mapping")
        )
    yield Bad("IDMapping.length", put(UNS, users(length=0)), ("userns_options.uids", "0 ids"))
    yield Bad("IDMapping.host_id", put(UNS, users(host=2**32 - 10)), ("userns_options.uids", "ends nowhere"))
    yield Bad(
        "IDMapping.container_id",
        put(UNS, users(inside=1)),
        ("userns_options.uids", "begins at container id 1"),
    )


def mounts() -> Iterator[Bad]:
    for value in ("", "/", "/x/..", "/a\0b", "/" + "x" * 5000):
        yield Bad(
            "Mount.container_path",
            mount(container_path=value),
            ("mount",) if value != "/a\0b" else ("container_path",),
        )
    yield Bad("Mount.container_path", mount(container_path="/proc"), ("/proc",))
    terminal = both(mount(container_path="/dev/pts"), lambda config: setattr(config, "tty", True))
    yield Bad("Mount.container_path", terminal, ("/dev/pts", "terminal"))
    for value in ("", "relative", "/a\0b"):
        yield Bad("Mount.host_path", mount(host_path=value), ("host_path",))
    yield Bad(
        "Mount.host_path", mount(host_path="/etc/passwd/x"), ("host_path", "/etc/passwd/x"), at_start=True
    )
    yield Bad("Mount.readonly", mount(recursive_read_only=True), ("recursive_read_only needs readonly",))
    yield Bad("Mount.propagation", mount(propagation=9), ("propagation",))
    for mode, words in (
        (cri.PROPAGATION_BIDIRECTIONAL, "not a shared mount"),
        (cri.PROPAGATION_HOST_TO_CONTAINER, "slave"),
    ):
        yield Bad(
            "Mount.propagation",
            mount(host_path="/proc", propagation=mode),
            ("/proc", words),
            PRECONDITION,
            True,
        )
    for mode in (cri.PROPAGATION_BIDIRECTIONAL, cri.PROPAGATION_HOST_TO_CONTAINER):
        both_ways = mount(readonly=True, recursive_read_only=True, propagation=mode)
        yield Bad("Mount.recursive_read_only", both_ways, ("recursive_read_only", "private"))


def volume_maps() -> Iterator[Bad]:
    zero = [cri.IDMapping(host_id=1, container_id=0, length=0)]
    one = [cri.IDMapping(host_id=1, container_id=0, length=1)]
    for name, other in (("uidMappings", "gidMappings"), ("gidMappings", "uidMappings")):
        yield Bad(f"Mount.{name}", mount(**{name: one}), (name, "only one of"))
        yield Bad(f"Mount.{name}", mount(**{name: zero, other: one}), (name, "0 ids"))
        same = [*one, cri.IDMapping(host_id=9, container_id=0, length=1)]
        yield Bad(f"Mount.{name}", mount(**{name: same, other: one}), (name, "same container_id"))
        clash = [*one, cri.IDMapping(host_id=1, container_id=9, length=1)]
        yield Bad(f"Mount.{name}", mount(**{name: clash, other: one}), (name, "same host_id"))
        many = [cri.IDMapping(host_id=n, container_id=n, length=1) for n in range(341)]
        yield Bad(f"Mount.{name}", mount(**{name: many, other: one}), (name, "341"))
    no_map = both(mount(host_path="/proc", uidMappings=one, gidMappings=one))
    yield Bad("Mount.uidMappings", no_map, ("/proc",), PRECONDITION, True)


def image_volumes() -> Iterator[Bad]:
    image = cri.ImageSpec(image="x")
    failed = "ImageVolumeMountFailed"
    yield Bad(
        "Mount.image", mount(host_path="", image=cri.ImageSpec(), readonly=True), (failed, "names no image")
    )
    yield Bad("Mount.image", mount(image=image, readonly=True), ("both host_path and image",))
    yield Bad("Mount.image", mount(host_path="", image=image), (failed, "not readonly"))
    shared = mount(host_path="", image=image, readonly=True, propagation=cri.PROPAGATION_BIDIRECTIONAL)
    yield Bad("Mount.image", shared, (failed, "propagate"))
    yield Bad(
        "Mount.image",
        mount(host_path="", image=image, readonly=True),
        (failed, "pull it first"),
        PRECONDITION,
    )
    for value, code in (("", INVALID), ("UPPER/case:1", PRECONDITION), ("no-such:1", PRECONDITION)):
        absent = mount(host_path="", image=cri.ImageSpec(image=value), readonly=True)
        yield Bad("ImageSpec.image", absent, (failed, "/v"), code)
    yield Bad("Mount.image_sub_path", mount(image_sub_path="x"), ("image_sub_path", "no image"))
    for value in ("../x", "a/../../x", "a\0b"):
        above = mount(host_path="", image=image, readonly=True, image_sub_path=value)
        yield Bad("Mount.image_sub_path", above, (failed, "image_sub_path"))
    here = cri.ImageSpec(image="example.com/test/busybox:1")
    missing = mount(host_path="", image=here, readonly=True, image_sub_path="no/such")
    yield Bad("Mount.image_sub_path", missing, (failed, "no/such"))
    for value in ("nope", "uid=0", "rw", ""):
        yield Bad("Mount.mount_options", mount(mount_options=[value]), ("mount_options", repr(value)))


def devices() -> Iterator[Bad]:
    for name in ("container_path", "host_path"):
        for value in ("", "relative", "/a\0b", "/dev/../x", "/"):
            yield Bad(f"Device.{name}", device(**{name: value}), (name,))
    yield Bad("Device.host_path", device(host_path="/dev/no-such"), ("device", "/dev/no-such"))
    yield Bad("Device.host_path", device(host_path="/etc/passwd"), ("/etc/passwd", "not a device"))
    yield Bad(
        "Device.container_path",
        device(host_path="/dev/zero", container_path="/etc"),
        ("'etc'",),
        at_start=True,
    )
    for value in ("x", "rwx", "r w", "RW"):
        yield Bad("Device.permissions", device(permissions=value), ("permissions",))
    for value in ("", "gpu0", "vendor.com/gpu", "vendor.com/gpu=", "a/b=c=d"):
        cdi = lambda config, value=value: config.CDI_devices.add(name=value)  # noqa: E731
        yield Bad("CDIDevice.name", cdi, ("CDI device",))
    unknown = lambda config: config.CDI_devices.add(name="vendor.com/gpu=no-such")  # noqa: E731
    yield Bad("CDIDevice.name", unknown, ("CDI device", "vendor.com/gpu=no-such"))


def containers() -> Iterator[Bad]:
    message = "LinuxContainerSecurityContext"
    for name in ("add_capabilities", "drop_capabilities", "add_ambient_capabilities"):
        for value in ("", "NOPE", "CAP_", "CAP_NET_RAW,CAP_CHOWN"):
            yield Bad(f"Capability.{name}", put(f"{S}capabilities", {name: [value]}), (name,))
    ambient = put(f"{S}capabilities", {"add_ambient_capabilities": ["ALL"]})
    yield Bad("Capability.add_ambient_capabilities", ambient, ("add_ambient_capabilities", "ALL"))
    yield Bad(f"{message}.privileged", put(f"{S}privileged", True), ("privileged container",))
    for kind in ("network", "ipc"):
        for mode in (cri.CONTAINER, cri.NODE, cri.TARGET, 9):
            yield Bad(f"NamespaceOption.{kind}", put(NO + kind, mode), (f"namespace_options.{kind}",))
    yield Bad("NamespaceOption.pid", put(f"{NO}pid", cri.NODE), ("namespace_options.pid", "NODE"))
    yield Bad("NamespaceOption.pid", put(f"{NO}pid", 9), ("namespace_options.pid",))
    yield Bad("NamespaceOption.pid", put(f"{NO}pid", cri.TARGET), ("namespace_options.pid", "target_id"))
    yield Bad("NamespaceOption.target_id", put(f"{NO}target_id", "f" * 64), ("target_id", "CONTAINER"))
    nobody = both(put(f"{NO}pid", cri.TARGET), put(f"{NO}target_id", "f" * 64))
    yield Bad("NamespaceOption.target_id", nobody, ("container", "f" * 64), NOT_FOUND)
    yield Bad("NamespaceOption.userns_options", put(UNS, users()), ("userns_options", "sandbox"))
    for value in ("nobody-here", "a\nb", "x" * 300, str(2**32 - 1)):
        words = (value,) if value in ("nobody-here", str(2**32 - 1)) else ("run_as_username",)
        yield Bad(f"{message}.run_as_username", put(f"{S}run_as_username", value), words)
    two = both(put(f"{S}run_as_username", "app"), put(f"{S}run_as_user", {"value": 1}))
    yield Bad(f"{message}.run_as_username", two, ("run_as_user and run_as_username",))
    for name in ("masked_paths", "readonly_paths"):
        for value in ("", "proc", "/a\0b", "/proc/../etc", "/", "//."):
            yield Bad(f"{message}.{name}", put(S + name, [value]), (name,))
    for value in ("relative.json", "/a/../b.json"):
        spoil = put(f"{S}seccomp", {"profile_type": LOCALHOST, "localhost_ref": value})
        yield Bad(f"{message}.seccomp", spoil, ("seccomp profile", value))
    missing = put(f"{S}seccomp", {"profile_type": LOCALHOST, "localhost_ref": "/no/such.json"})
    yield Bad(f"{message}.seccomp", missing, ("seccomp profile '/no/such.json'",), PRECONDITION)
    missing = put(f"{S}seccomp_profile_path", "localhost//no/such.json")
    yield Bad(f"{message}.seccomp_profile_path", missing, ("seccomp profile '/no/such.json'",), PRECONDITION)
    none = put(f"{S}seccomp", {"profile_type": LOCALHOST, "localhost_ref": "/etc/passwd"})
    yield Bad(f"{message}.seccomp", none, ("seccomp",))
    absent = "not loaded" if APPARMOR else "no AppArmor"
    for spoil in (
        put(f"{S}apparmor", {"profile_type": LOCALHOST, "localhost_ref": "no-such"}),
        put(f"{S}apparmor_profile", "localhost/no-such"),
    ):
        yield Bad(f"{message}.apparmor", spoil, ("AppArmor", "no-such", absent), PRECONDITION)
    name = put(f"{S}apparmor", {"profile_type": LOCALHOST, "localhost_ref": "a\nb"})
    yield Bad(f"{message}.apparmor", name, ("AppArmor",))
    yield from identity(message)
    yield from confinement(message)
    yield from resources("resources", pod=False)
    yield from mounts()
    yield from volume_maps()
    yield from image_volumes()
    yield from devices()


PODS, CONTAINERS = tuple(pods()), tuple(containers())
FIELDS = frozenset(each.field for each in (*PODS, *CONTAINERS))
