"""From what a container asks for to what confines it, when it is made: no start compiles a profile."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Collection

from shim.kernel import capabilities
from shim.model.container import ContainerConfig
from shim.model.sandbox import SandboxSpec
from shim.model.security import Confinement, ContainerSecurity, ProfileType, SandboxSecurity
from shim.runtime.privileges import plan_capabilities
from shim.services.confinement import apparmor, seccomp, selinux
from shim.services.confinement.selinux import Labels
from shim.services.node import Settings


def resolve(settings: Settings, profiles: str, config: ContainerConfig, sandbox: SandboxSpec) -> Confinement:
    """Return what a container is confined by, after everything that it needs was found and built. Blocking.

    Args:
        settings: of the node.
        profiles: directory in which texts of profiles are kept.
        config: the request; its volumes are relabelled if it says so.
        sandbox: whose labels count where it says nothing.

    Raises:
        InvalidArgument, Unimplemented: it can never be done.
        FailedPrecondition: a profile is missing on this node.
    """
    mask, _, _ = plan_capabilities(config.security, _available())
    confinement = profiles_of(settings, profiles, config.security, mask)
    seccomp.program(profiles, confinement, mask)
    labels = _labels(settings, config, sandbox)
    if labels is None:
        return confinement
    return dataclasses.replace(confinement, process_label=str(labels.process), mount_label=str(labels.mount))


@functools.cache
def _available() -> int:
    return capabilities.bounding_set()  # of this process it never changes


def profiles_of(settings: Settings, profiles: str, security: ContainerSecurity, mask: int) -> Confinement:
    """Return the profiles of seccomp and AppArmor that are asked for, as ``resolve`` does. Blocking.

    Args:
        settings: of the node.
        profiles: directory in which texts of profiles are kept.
        security: the request.
        mask: the capabilities that it comes to.
    """
    named = apparmor.plan(security, apparmor.look())
    asked = seccomp.asked(security, settings.seccomp_default)
    localhost = asked.profile_type is ProfileType.LOCALHOST
    return Confinement(
        seccomp=asked.profile_type,
        seccomp_digest=seccomp.keep(profiles, asked.localhost_ref, mask) if localhost else "",
        apparmor=named,
    )


def labels_of_sandbox(
    settings: Settings, security: SandboxSecurity, used: Collection[str]
) -> tuple[str, str]:
    """Return the SELinux labels of a pod's processes and mounts, empty where it is off. Blocking.

    Args:
        settings: of the node.
        security: the request.
        used: mount labels of the other pods.

    Raises:
        InvalidArgument: the policy knows no such label.
    """
    base = selinux.policy(settings.selinux)
    if base is None:
        return "", ""
    level = selinux.free_level({selinux.parse(label).level for label in used if label})
    labels = selinux.plan(base, security.selinux, level)
    for label in (labels.process, labels.mount):
        selinux.verify(label)
    return str(labels.process), str(labels.mount)


def _labels(settings: Settings, config: ContainerConfig, sandbox: SandboxSpec) -> Labels | None:
    if not sandbox.mount_label or settings.selinux == "off":
        return None
    base = Labels(selinux.parse(sandbox.process_label), selinux.parse(sandbox.mount_label))
    security = config.security
    labels = selinux.plan(base, security.selinux, privileged=security.privileged)
    for label in (labels.process, labels.mount):
        selinux.verify(label)
    for volume in config.volumes:
        if volume.selinux_relabel and os.path.exists(volume.host_path):
            selinux.relabel(volume.host_path, str(labels.mount))
    return labels
