"""Which hosts would be asked for an image, how, and why: what a person wants to know before any try."""

from __future__ import annotations

from dataclasses import dataclass

from shim.images import hosts, proxies, reference
from shim.images.exchange import Shared
from shim.images.settings import Settings
from shim.model.image import Auth
from shim.threads import Pool


@dataclass(frozen=True, slots=True)
class HostPlan:
    """How one host would be asked; texts are for people, and have names of secrets only.

    Attributes:
        url: up to and with the API's root.
        capabilities: what it may be asked for.
        reason: why it is asked, and why at this place.
        credentials: that it gets if it asks for some.
        tls: how it is verified, and how it knows us.
        proxy: it is asked through, empty for none.
        state: what is known of its health.
    """

    url: str
    capabilities: tuple[str, ...]
    reason: str
    credentials: str
    tls: str
    proxy: str
    state: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a pull would do.

    Attributes:
        reference: in full.
        source: file or directory that says which hosts; empty: none does.
        tried: directories that would say so, too, had they been there.
        warnings: what is odd.
        hosts: in the order they are asked.
        offline: nobody is asked at all.
    """

    reference: str
    source: str
    tried: tuple[str, ...]
    warnings: tuple[str, ...]
    hosts: tuple[HostPlan, ...]
    offline: bool


async def explain(
    settings: Settings, shared: Shared, threads: Pool, text: str, auth: Auth | None
) -> Explanation:
    """Return what a pull of a reference would do.

    Raises:
        InvalidArgument: the reference or ``auth`` is malformed.
        FailedPrecondition: a file of the configuration is.
    """
    ref = reference.parse(text).canonical()
    found = await threads.run(hosts.look_up, settings.config_paths, ref.domain)
    plans: list[HostPlan] = []
    for position, host in enumerate(found.hosts):
        proxy = shared.connections.proxy(host.base)
        why_down = shared.connections.why_down(host.base)
        plans.append(
            HostPlan(
                url=host.base,
                capabilities=tuple(sorted(host.capabilities & {hosts.RESOLVE, hosts.PULL})),
                reason=_reason(found, position, ref.domain),
                credentials=await shared.keychain.tell(auth, host.netloc, ref.path),
                tls=_tls(host, speaks_tls=shared.connections.speaks_tls(host.netloc)),
                proxy=proxies.show(proxy) if proxy else "",
                state=f"down, asked last: {why_down}" if why_down else "",
            )
        )
    return Explanation(str(ref), found.source, found.tried, found.warnings, tuple(plans), settings.offline)


def _reason(found: hosts.Lookup, position: int, domain: str) -> str:
    host = found.hosts[position]
    if position + 1 < len(found.hosts):
        return f'mirror {position + 1} for {domain}, by [host."…"] of the file'
    if host.namespace:
        return f'"server" of the file, in the place of {domain}'
    return "the registry itself" + (", after its mirrors" if position else "")


def _tls(host: hosts.Host, *, speaks_tls: bool) -> str:
    if host.base.startswith("http:") and not speaks_tls:
        return "none" + (", unless it turns out to speak TLS" if host.may_speak_tls else "")
    if host.tls.skip_verify or (host.may_speak_tls and host.tls == hosts.Tls()):
        told = "the host is not verified"
    elif host.tls.ca:
        told = f"verified by {', '.join(host.tls.ca)} and the system's certificates"
    else:
        told = "verified by the system's certificates"
    names = [certificate for certificate, _ in host.tls.client]
    return told + (f"; we are known by {', '.join(names)}" if names else "")
