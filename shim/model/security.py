"""Namespaces, identity, capabilities and profiles, as the CRI asks for them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class NamespaceMode(enum.IntEnum):
    """Who shares a namespace (CRI NamespaceMode)."""

    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class ProfileType(enum.IntEnum):
    """Where a seccomp or AppArmor profile comes from."""

    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


class SupplementalGroupsPolicy(enum.IntEnum):
    """Whether groups of the image's /etc/group are added."""

    MERGE = 0
    STRICT = 1


@dataclass(frozen=True, slots=True)
class IdMapping:
    """A range of uids or gids: ``length`` ids from ``container_id`` on are ``host_id`` on outside."""

    host_id: int
    container_id: int
    length: int


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """The user namespace of a pod: mode POD with mappings, or NODE."""

    mode: NamespaceMode = NamespaceMode.NODE
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Return what a user and a group are on the host; those that are nobody there stay what they are."""
        mapped = id_outside(self.uids, uid), id_outside(self.gids, gid)
        return uid if mapped[0] is None else mapped[0], gid if mapped[1] is None else mapped[1]


def id_outside(mappings: tuple[IdMapping, ...], id_: int) -> int | None:
    """Return what an id of a user namespace is on the host; None if it is nothing there."""
    for each in mappings:
        if each.container_id <= id_ < each.container_id + each.length:
            return each.host_id + id_ - each.container_id
    return None


@dataclass(frozen=True, slots=True)
class NamespaceOptions:
    """Sharing of each namespace; echoed to the kubelet exactly as asked."""

    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""
    userns: UserNamespace | None = None


@dataclass(frozen=True, slots=True)
class SELinuxOption:
    """SELinux label parts; empty means the policy's default."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class SecurityProfile:
    """A seccomp or AppArmor profile by reference."""

    profile_type: ProfileType
    localhost_ref: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Names with or without ``CAP_``, any case; ``ALL`` stands for every one."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    add_ambient: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxSecurity:
    """LinuxSandboxSecurityContext. ``None`` means: not given."""

    namespaces: NamespaceOptions = NamespaceOptions()
    selinux: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    privileged: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    seccomp_profile_path: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSecurity:
    """LinuxContainerSecurityContext. ``None`` means: not given."""

    capabilities: Capabilities = Capabilities()
    privileged: bool = False
    namespaces: NamespaceOptions | None = None
    selinux: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    apparmor_profile: str = ""
    seccomp_profile_path: str = ""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a container is confined by, resolved when it is made, so that a later exec gets the same.

    Attributes:
        seccomp: which profile; for LOCALHOST ``seccomp_digest`` names its text as it was then.
        apparmor: name of the profile; empty for none.
        process_label, mount_label: of SELinux; empty where it is off.
    """

    seccomp: ProfileType = ProfileType.UNCONFINED
    seccomp_digest: str = ""
    apparmor: str = ""
    process_label: str = ""
    mount_label: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as, resolved: ids inside the container's user namespace."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
