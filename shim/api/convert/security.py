"""Namespaces, identity, capabilities and profiles."""

from __future__ import annotations

from collections.abc import Iterable

from shim._proto import api_pb2 as cri
from shim.api.convert import check
from shim.model import security


def decode_id_mappings(messages: Iterable[cri.IDMapping]) -> tuple[security.IdMapping, ...]:
    """Return ranges of ids."""
    return tuple(security.IdMapping(each.host_id, each.container_id, each.length) for each in messages)


def encode_id_mappings(values: Iterable[security.IdMapping]) -> list[cri.IDMapping]:
    """Return ranges of ids as messages."""
    return [
        cri.IDMapping(host_id=each.host_id, container_id=each.container_id, length=each.length)
        for each in values
    ]


def decode_namespaces(message: cri.NamespaceOption) -> security.NamespaceOptions:
    """Return the sharing of namespaces."""
    mode = security.NamespaceMode
    userns = None
    if message.HasField("userns_options"):
        options = message.userns_options
        userns = security.UserNamespace(
            mode=check.member(mode, options.mode, "userns_options.mode"),
            uids=decode_id_mappings(options.uids),
            gids=decode_id_mappings(options.gids),
        )
    return security.NamespaceOptions(
        network=check.member(mode, message.network, "namespace_options.network"),
        pid=check.member(mode, message.pid, "namespace_options.pid"),
        ipc=check.member(mode, message.ipc, "namespace_options.ipc"),
        target_id=message.target_id,
        userns=userns,
    )


def encode_namespaces(value: security.NamespaceOptions) -> cri.NamespaceOption:
    """Return the sharing of namespaces as a message, with no field that was not there."""
    message = cri.NamespaceOption(
        network=check.wire(value.network),
        pid=check.wire(value.pid),
        ipc=check.wire(value.ipc),
        target_id=value.target_id,
    )
    if value.userns is not None:
        message.userns_options.CopyFrom(
            cri.UserNamespace(
                mode=check.wire(value.userns.mode),
                uids=encode_id_mappings(value.userns.uids),
                gids=encode_id_mappings(value.userns.gids),
            )
        )
    return message


def _decode_selinux(message: cri.SELinuxOption) -> security.SELinuxOption:
    return security.SELinuxOption(message.user, message.role, message.type, message.level)


def _encode_selinux(value: security.SELinuxOption | None) -> cri.SELinuxOption | None:
    if value is None:
        return None
    return cri.SELinuxOption(user=value.user, role=value.role, type=value.type, level=value.level)


def _decode_profile(message: cri.SecurityProfile, field: str) -> security.SecurityProfile:
    kind = check.member(security.ProfileType, message.profile_type, f"{field}.profile_type")
    return security.SecurityProfile(kind, message.localhost_ref)


def _encode_profile(value: security.SecurityProfile | None) -> cri.SecurityProfile | None:
    if value is None:
        return None
    return cri.SecurityProfile(profile_type=check.wire(value.profile_type), localhost_ref=value.localhost_ref)


def _decode_id(
    message: cri.LinuxSandboxSecurityContext | cri.LinuxContainerSecurityContext, field: str
) -> int | None:
    if not message.HasField(field):
        return None
    value: int = getattr(message, field).value
    return value


def _encode_id(value: int | None) -> cri.Int64Value | None:
    return None if value is None else cri.Int64Value(value=value)


def decode_sandbox_security(message: cri.LinuxSandboxSecurityContext) -> security.SandboxSecurity:
    """Return the security of a sandbox."""
    has = message.HasField
    return security.SandboxSecurity(
        namespaces=decode_namespaces(message.namespace_options),
        selinux=_decode_selinux(message.selinux_options) if has("selinux_options") else None,
        run_as_user=_decode_id(message, "run_as_user"),
        run_as_group=_decode_id(message, "run_as_group"),
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=tuple(message.supplemental_groups),
        supplemental_groups_policy=check.member(
            security.SupplementalGroupsPolicy,
            message.supplemental_groups_policy,
            "supplemental_groups_policy",
        ),
        privileged=message.privileged,
        seccomp=_decode_profile(message.seccomp, "seccomp") if has("seccomp") else None,
        apparmor=_decode_profile(message.apparmor, "apparmor") if has("apparmor") else None,
        seccomp_profile_path=message.seccomp_profile_path,
    )


def encode_sandbox_security(value: security.SandboxSecurity) -> cri.LinuxSandboxSecurityContext:
    """Return the security of a sandbox as a message."""
    return cri.LinuxSandboxSecurityContext(
        namespace_options=encode_namespaces(value.namespaces),
        selinux_options=_encode_selinux(value.selinux),
        run_as_user=_encode_id(value.run_as_user),
        run_as_group=_encode_id(value.run_as_group),
        readonly_rootfs=value.readonly_rootfs,
        supplemental_groups=value.supplemental_groups,
        supplemental_groups_policy=check.wire(value.supplemental_groups_policy),
        privileged=value.privileged,
        seccomp=_encode_profile(value.seccomp),
        apparmor=_encode_profile(value.apparmor),
        seccomp_profile_path=value.seccomp_profile_path,
    )


def decode_container_security(message: cri.LinuxContainerSecurityContext) -> security.ContainerSecurity:
    """Return the security of a container."""
    has = message.HasField
    names = message.capabilities
    return security.ContainerSecurity(
        capabilities=security.Capabilities(
            add=tuple(names.add_capabilities),
            drop=tuple(names.drop_capabilities),
            add_ambient=tuple(names.add_ambient_capabilities),
        ),
        privileged=message.privileged,
        namespaces=decode_namespaces(message.namespace_options) if has("namespace_options") else None,
        selinux=_decode_selinux(message.selinux_options) if has("selinux_options") else None,
        run_as_user=_decode_id(message, "run_as_user"),
        run_as_group=_decode_id(message, "run_as_group"),
        run_as_username=message.run_as_username,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=tuple(message.supplemental_groups),
        supplemental_groups_policy=check.member(
            security.SupplementalGroupsPolicy,
            message.supplemental_groups_policy,
            "supplemental_groups_policy",
        ),
        no_new_privs=message.no_new_privs,
        masked_paths=tuple(message.masked_paths),
        readonly_paths=tuple(message.readonly_paths),
        seccomp=_decode_profile(message.seccomp, "seccomp") if has("seccomp") else None,
        apparmor=_decode_profile(message.apparmor, "apparmor") if has("apparmor") else None,
        apparmor_profile=message.apparmor_profile,
        seccomp_profile_path=message.seccomp_profile_path,
    )


def encode_container_security(value: security.ContainerSecurity) -> cri.LinuxContainerSecurityContext:
    """Return the security of a container as a message."""
    names = value.capabilities
    return cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(
            add_capabilities=names.add,
            drop_capabilities=names.drop,
            add_ambient_capabilities=names.add_ambient,
        ),
        privileged=value.privileged,
        namespace_options=None if value.namespaces is None else encode_namespaces(value.namespaces),
        selinux_options=_encode_selinux(value.selinux),
        run_as_user=_encode_id(value.run_as_user),
        run_as_group=_encode_id(value.run_as_group),
        run_as_username=value.run_as_username,
        readonly_rootfs=value.readonly_rootfs,
        supplemental_groups=value.supplemental_groups,
        supplemental_groups_policy=check.wire(value.supplemental_groups_policy),
        no_new_privs=value.no_new_privs,
        masked_paths=value.masked_paths,
        readonly_paths=value.readonly_paths,
        seccomp=_encode_profile(value.seccomp),
        apparmor=_encode_profile(value.apparmor),
        apparmor_profile=value.apparmor_profile,
        seccomp_profile_path=value.seccomp_profile_path,
    )
