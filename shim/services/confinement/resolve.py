"""From what a container asks for to what confines it, when it is made: no start compiles a profile."""

from __future__ import annotations

from shim.kernel import capabilities
from shim.model.security import Confinement, ContainerSecurity, ProfileType
from shim.runtime.privileges import plan_capabilities
from shim.services.confinement import apparmor, seccomp
from shim.services.node import Settings


def resolve(settings: Settings, profiles: str, security: ContainerSecurity) -> Confinement:
    """Return what a container is confined by, after everything that it needs was found and built. Blocking.

    Args:
        settings: of the node.
        profiles: directory in which texts of profiles are kept.
        security: the request.

    Raises:
        InvalidArgument, Unimplemented: it can never be done.
        FailedPrecondition: a profile is missing on this node.
    """
    asked = seccomp.asked(security, settings.seccomp_default)
    localhost = asked.profile_type is ProfileType.LOCALHOST
    confinement = Confinement(
        seccomp=asked.profile_type,
        seccomp_digest=seccomp.keep(profiles, asked.localhost_ref) if localhost else "",
        apparmor=apparmor.plan(security, apparmor.look()),
    )
    mask, _, _ = plan_capabilities(security, capabilities.bounding_set())
    seccomp.program(profiles, confinement, mask)
    return confinement
